"""Help and completion must be fast, so the command line may load heavy packages only to work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.build import save

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "safetensors", "scipy", "torch", "yaml")


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages in memory after a fresh interpreter imports a module."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_packages() -> None:
    assert loaded_by("rebasin_cli.cli").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["numpy", "yaml", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_heavy_package_would_be_noticed(module: str) -> None:
    assert module in loaded_by(module)


def test_scipy_loads_its_solvers_where_one_is_needed() -> None:
    solver = "rebasin_cli.matching.assignment.scipy_solver"
    code = f"import sys, {solver}; print('scipy' in sys.modules, 'scipy.optimize' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def loaded_by_command(*argv: str, cwd: Path, code: int = 0) -> set[str]:
    """Return the modules in memory after a command has done its work."""
    script = (
        "import atexit, sys\n"
        "from rebasin_cli.cli import main\n"
        "atexit.register(lambda: print(*sys.modules))\n"
        f"sys.argv = {['rebasin', *argv]!r}\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("argv", "most"),
    [
        (("--help",), 16),
        (("align", "--help"), 38),
        (("spec", "list"), 42),
        (("spec", "show", "mlp"), 42),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_needs_no_tensors_loads_little(
    argv: tuple[str, ...], most: int, tmp_path: Path
) -> None:
    loaded = loaded_by_command(*argv, cwd=tmp_path)
    assert loaded.isdisjoint({"torch", "numpy", "scipy"})
    assert sum(name.startswith("rebasin_cli") for name in loaded) <= most


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("align", "no.pt", "none.pt"), 3),
        (("align", "/", "/", "--device", "gpu"), 2),
        (("align", "/", "/", "--effort", "more"), 2),
        (("align", "/", "/", "--method", "magic"), 2),
    ],
    ids=["a path", "a device", "an effort", "a method"],
)
def test_what_leads_nowhere_is_told_before_torch_is_loaded(
    argv: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    assert "torch" not in loaded_by_command(*argv, cwd=tmp_path, code=code)


def test_inspect_loads_what_reads_headers_and_tells_specs_apart(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"layers.0.weight": torch.zeros(3, 2)})
    loaded = loaded_by_command("inspect", "a.safetensors", cwd=tmp_path)
    ours = {name.split(".")[1] for name in loaded if name.startswith("rebasin_cli.")}
    assert ours.isdisjoint({"matching", "tracer", "network", "alignment", "activations"})
    assert "scipy" not in loaded
    assert sum(name.startswith("rebasin_cli") for name in loaded) <= 120


@pytest.mark.parametrize(
    "command",
    [("merge",), pytest.param(("lerp", "--align", "--at", "0.5"), marks=pytest.mark.slow)],
    ids=lambda c: c[0],
)
def test_commands_on_files_load_nothing_that_only_data_needs(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        draw = torch.Generator().manual_seed(seed)
        sizes = {"layers.0.weight": (8, 4), "layers.0.bias": (8,), "layers.1.weight": (3, 8)}
        state = {n: torch.randn(size, generator=draw) for n, size in sizes.items()}
        save(tmp_path / name, {**state, "layers.1.bias": torch.zeros(3)})
    verb, *options = command
    files = ("a.safetensors", "b.safetensors")
    loaded = loaded_by_command(verb, *files, *options, "--spec", "mlp", cwd=tmp_path)
    assert "torch" in loaded
    assert loaded.isdisjoint({"matplotlib", "PIL", "torchvision", "transformers", "sklearn"})


@pytest.mark.slow
def test_watching_operators_does_not_import_the_compiler_of_torch(tmp_path: Path) -> None:
    text = "from torch import nn\n\n\ndef net():\n    return nn.Linear(3, 3)\n"
    (tmp_path / "net.py").write_text(text)
    loaded = loaded_by_command("spec", "trace", "net.py:net", "--no-cache", cwd=tmp_path)
    assert "rebasin_cli.tracer.recording.recorder" in loaded
    assert "torch._dynamo" not in loaded


def test_the_heap_is_prepared_before_anything_large_is_imported() -> None:
    code = (
        "import os, sys\n"
        "from rebasin_cli.cli import main\n"
        "sys.argv = ['rebasin', '--version']\n"
        "try:\n    main()\n"
        "except SystemExit:\n"
        "    names = 'MKL_DISABLE_FAST_MM', 'THP_MEM_ALLOC_ENABLE'\n"
        "    print(*map(os.environ.get, names), 'torch' in sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if "_MEM" not in name}
    environment.pop("MKL_DISABLE_FAST_MM", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stdout.splitlines()[-1:] == ["1 1 False"], done.stderr

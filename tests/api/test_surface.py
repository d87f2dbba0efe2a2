"""What the library promises by name: verbs, signatures, docstrings, and the code in README.md."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rebasin_cli as rb
from tests.api.nets import convolutions, copied, mlp, pictures, same

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text("utf-8").partition("## From Python\n")[2].split("\n## ")[0]
MATCHED = "spec: 'SpecLike' = None, model: 'NetworkLike | None' = None, inputs: 'object' = None"
KEYWORDS = f"{MATCHED}, **options: 'Unpack[Options]'"
LATE = "'dict[str, Tensor] | Checkpoint'"
VERBS = {
    "align": f"(a: 'Model', b: 'Model', *, widen: 'bool' = False, {KEYWORDS}) -> {LATE}",
    "apply": "(permutation: 'PairMatching | str | PathLike[str]', "
    "model: 'Model | Mapping[str, Any]', *, inverse: 'bool' = False, "
    "base: 'Model | None' = None, keep_unknown: 'bool' = False) -> 'dict[str, Any] | Checkpoint'",
    "barrier": "(a: 'Model', b: 'Model', *, model: 'NetworkLike | None' = None, "
    "data: 'Callable[[], Iterable[object]] | Iterable[object] | str | None' = None, "
    "evaluate: 'Callable[[Any], object] | str | None' = None, steps: 'int' = 25, "
    "at: 'SupportsFloat | Iterable[SupportsFloat]' = (), "
    "align: 'bool' = True, batches: 'int | None' = None, "
    "spec: 'SpecLike' = None, inputs: 'object' = None, **options: 'Unpack[Options]') "
    "-> 'BarrierCurves'",
    "fold": f"(a: 'Model', *, {KEYWORDS}) -> {LATE}",
    "lerp": "(a: 'Model', b: 'Model', alpha: 'SupportsFloat | Iterable[SupportsFloat]', *, "
    f"mode: 'str' = 'linear', align: 'bool' = False, {KEYWORDS}) -> "
    "'dict[str, Tensor] | Checkpoint | Sequence[dict[str, Tensor] | Checkpoint]'",
    "load_maps": "(path: 'str | PathLike[str]') -> 'LinearMaps'",
    "load_spec": "(name: 'str | PathLike[str]') -> 'Spec'",
    "match": f"(a: 'Model', b: 'Model', *, {KEYWORDS}) -> 'PairMatching'",
    "merge": "(models: 'Iterable[Model]', *, weights: 'Sequence[float]' = (), "
    "strategy: 'str | None' = None, sync_method: 'str | None' = None, "
    "ref: 'int | None' = None, base: 'Model | None' = None, "
    "combine: 'str' = 'mean', density: 'float | None' = None, scale: 'float | None' = None, "
    "tensor_weights: 'Mapping[str, Sequence[float]] | None' = None, width: 'float' = 1.0, "
    f"data: 'BatchesLike' = None, batches: 'int | None' = None, {KEYWORDS}) -> {LATE}",
    "open": "(path: 'str | PathLike[str]', *, key: 'str | None' = None, "
    "rename: 'str | Sequence[str]' = (), ignore_classes: 'bool' = False, "
    "dequantize: 'bool' = False) -> 'Checkpoint'",
    "related": f"(models: 'Iterable[Model]', *, {KEYWORDS}) -> 'Kinship'",
    "rotate": f"(models: 'Iterable[Model]', *, ref: 'int' = 0, {KEYWORDS}) -> "
    "'Sequence[dict[str, Tensor] | Checkpoint]'",
    "save": "(model: 'Model | PairMatching', path: 'str | PathLike[str]', *, "
    "force: 'bool' = False, in_place: 'bool' = False, dtype: 'str' = 'keep', "
    "format: 'str | None' = None, drop_rest: 'bool' = False) -> 'Written'",
    "trace": "(model: 'NetworkLike', inputs: 'object' = None, *, "
    "outputs: 'str | Sequence[str]' = (), "
    "free_outputs: 'bool' = False, buffers: 'str | Sequence[str]' = ()) -> 'Trace'",
    "verify": f"(a: 'Model', b: 'Model', *, {KEYWORDS}) -> 'Verified'",
    "widen": "(a: 'Model', to: 'Mapping[str, int] | Model', *, trust: 'bool' = False, "
    f"{KEYWORDS}) -> {LATE}",
}
TYPES = ["BarrierCurves", "BoundSpec", "Checkpoint", "LinearMaps", "PairMatching"]
TYPES += ["RebasinError", "RebasinWarning", "Spec", "Trace"]
OPTIONS = "sizes strict only skip pass_through key rename ignore_classes dequantize method effort"
OPTIONS += " start restarts order loss fast device jobs max_memory seed"


def test_the_names_are_these() -> None:
    assert rb.__all__ == [*TYPES, *VERBS]
    assert [name for name in dir(rb) if not name.startswith("__")] == sorted(rb.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mach'"):
        _ = rb.mach  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_called_so(verb: str) -> None:
    assert str(inspect.signature(getattr(rb, verb))) == VERBS[verb]


def test_options_are_called_as_the_flags_are() -> None:
    from rebasin_cli.api.keywords import Options

    assert " ".join(Options.__annotations__) == OPTIONS
    told = subprocess.run(
        [sys.executable, "-m", "rebasin_cli", "align", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    ).stdout
    flags = {name: f"--{name.replace('_', '-')}" for name in Options.__annotations__}
    flags["sizes"] = "--set"
    assert [name for name, flag in flags.items() if flag not in told] == []


@pytest.mark.parametrize("name", [n for n in [*VERBS, *TYPES] if n != "BoundSpec"])
def test_what_is_public_says_what_it_does(name: str) -> None:
    text = inspect.getdoc(getattr(rb, name)) or ""
    parameters = inspect.signature(getattr(rb, name)).parameters if name in VERBS else {}
    assert text and ("Raises" in text or "rrors" in text or name in TYPES)
    own = [
        p for p in parameters if p not in {"a", "b", "options", "spec", "model", "inputs", "path"}
    ]
    missing = [p for p in own if not re.search(rf"\b{p}\b", text)]
    assert missing == []


def test_nothing_is_imported_before_it_is_used() -> None:
    script = (
        "import random, sys, rebasin_cli as rb\n"
        "random.seed(0)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'yaml', 'typer', 'rich', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'match' in dir(rb) and not heavy & set(sys.modules)\n"
        "rb.match\n"
        "assert 'torch' in sys.modules\n"
        "rb.merge, rb.barrier, rb.rotate\n"
        "assert random.random() == random.Random(0).random()\n"
        "assert 'matplotlib' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert {"rebasin_cli/py.typed", "rebasin_cli/api/pairs.py"} <= set(
        zipfile.ZipFile(wheel).namelist()
    )


def _code() -> list[str]:
    """Return the indented blocks of the section in README.md."""
    lines = SECTION.splitlines()
    blocks = re.split(r"\n(?! {4}|\n)", "\n".join(lines))
    code = ["\n".join(li[4:] for li in b.splitlines() if li[:4].isspace()) for b in blocks]
    return [block for block in code if block.strip()]


def _rows() -> list[tuple[str, str]]:
    """Return the calls of the other program, and ours, side by side."""
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", SECTION, re.MULTILINE)
    return [(theirs, ours) for theirs, ours in rows if "(" in theirs]


def test_the_code_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        save_file(mlp(seed).state_dict(), f"{name}.safetensors")
    names: dict[str, Any] = {name: mlp(seed) for seed, name in enumerate("abc")}
    names |= {"net": convolutions(0), "other": convolutions(1), "inputs": pictures()}
    names["batches"] = [(pictures(8), torch.arange(8) % 5)]
    blocks = _code()
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    written = {"b.aligned.safetensors", "b.perm.safetensors"}
    assert written <= {path.name for path in tmp_path.iterdir()}
    assert same(names["back"], mlp(1).state_dict()) and len(names["between"]) == 3
    assert len(capfd.readouterr().out.splitlines()) == 2


def test_what_pypi_rebasin_does_is_a_line_here(tmp_path: Path) -> None:
    def fresh() -> dict[str, Any]:
        nets = {f"model_{name}": convolutions(seed) for seed, name in enumerate("abc")}
        return {**nets, "working": convolutions(9), "x": pictures(), "out": tmp_path, "rb": rb}

    aligned, line, merged = (ours for _, ours in _rows())
    names = fresh()
    exec(aligned, names)
    model_b: nn.Module = names["model_b"]
    assert same(copied(model_b), rb.align(convolutions(0), convolutions(1)))
    exec(line, fresh())
    assert len(list(tmp_path.iterdir())) == 9
    names = fresh()
    exec(merged, names)
    wanted = rb.merge([convolutions(seed) for seed in range(3)])
    assert same(copied(names["working"]), wanted)


RENAMED = {"sizes": "set", "inputs": "input"}
UNSAID = {"a", "b", "alpha", "models", "name", "options", "path", "permutation", "trust"}
UNSAID |= {"tensor_weights"}


def test_what_texts_call_by_its_flag_is_shown_under_its_keyword() -> None:
    from rebasin_cli.api.keywords import Options
    from rebasin_cli.errors import UsageError
    from rebasin_cli.option_spelling import in_python

    keywords = {n for verb in VERBS for n in inspect.signature(getattr(rb, verb)).parameters}
    for name in (keywords - UNSAID) | set(Options.__annotations__):
        flag = f"--{RENAMED.get(name, name).replace('_', '-')}"
        assert in_python(f"leave out {flag}, then").startswith(f"leave out {name}="), name
    error = UsageError("--set heads=4 --skip 'a' --skip 'b.*' with --device cpu", hint="--tie keep")
    assert str(error).startswith("--set heads=4 --skip 'a' --skip 'b.*' with --device cpu")
    error.tell_in_python()
    assert str(error) == (
        "sizes={'heads': 4} skip=['a', 'b.*'] with device='cpu'\n"
        "hint: `--tie keep` of the command line"
    )
    assert str(error.problems[0]).endswith("with --device cpu\nhint: --tie keep")
    kept = "/tmp/a--force, `rebasin align --key ema`, or rebasin fold MODEL --tie untie"
    assert in_python(kept) == kept
    assert str(rb.RebasinWarning("read as without --key")) == "read as without key="
    assert rb.RebasinWarning("read as without --key").text == "read as without --key"

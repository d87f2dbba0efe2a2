"""Every command that takes --device, on a GPU: what the CPU writes, to the byte or nearly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.build import save
from tests.cli.harness import Done, rebasin
from tests.commands.align.test_straight_through import MODULE
from tests.commands.align.tiny import trained

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
USER = ("--model", "user.py:network")
DATA = (*USER, "--data", "user.py:data")
PAIR = ("a.safetensors", "b.safetensors")
THREE = (*PAIR, "c.safetensors")
QUICK = ("--learning-rate", "0.05", "--epochs", "2")

# What permutations are found, and so every byte that is written, is the same on any device.
SAME = {
    "weights": ("align", *PAIR, *USER),
    "best": ("align", *PAIR, *USER, "--effort", "best"),
    "fast": ("align", *PAIR, *USER, "--fast"),
    "frank-wolfe": ("align", *PAIR, *USER, "--method", "frank-wolfe"),
    "sinkhorn": ("align", *PAIR, *USER, "--method", "sinkhorn"),
    "activations": ("align", *PAIR, *DATA, "--method", "activations"),
    "straight-through": ("align", *PAIR, *DATA, "--method", "straight-through", *QUICK),
    "many": ("merge", *THREE, *USER),
    "universe": ("merge", *THREE, *USER, "--strategy", "universe"),
    "lerp": ("lerp", *PAIR, *USER, "--align", "--at", "0.5"),
}
# Sums over data, whose last digits depend on the device.
NEAR = {
    "zipit": ("merge", *PAIR, *DATA, "--method", "zipit"),
    "least-squares": ("merge", *PAIR, *DATA, "--method", "least-squares"),
    "statistics": ("statistics", *PAIR, *DATA),
    "renormalize": ("renormalize", PAIR[0], "--parents", *PAIR, *DATA),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("devices")
    (made / "user.py").write_text(MODULE)
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        save(made / f"{name}.safetensors", trained(seed))
    return made


def written(argv: tuple[str, ...], device: str, folder: Path) -> Path:
    out = folder / f"{device}.safetensors"
    done = rebasin(*argv, "-o", str(out), "-f", "--device", device, cwd=folder)
    assert done.code == 0, done.err
    return out


@pytest.mark.parametrize("name", SAME)
def test_a_gpu_writes_the_tensors_of_the_cpu(name: str, folder: Path) -> None:
    cpu, gpu = (load_file(written(SAME[name], device, folder)) for device in ("cpu", DEVICE))
    assert cpu.keys() == gpu.keys()
    assert all(torch.equal(cpu[tensor], gpu[tensor]) for tensor in cpu)


@pytest.mark.parametrize("name", NEAR)
def test_sums_over_data_agree(name: str, folder: Path) -> None:
    cpu, gpu = (load_file(written(NEAR[name], device, folder)) for device in ("cpu", DEVICE))
    assert cpu.keys() == gpu.keys()
    for tensor, values in cpu.items():
        torch.testing.assert_close(gpu[tensor], values, rtol=1e-4, atol=1e-5)


def scores(done: Done) -> list[float]:
    assert done.code == 0, done.err
    events = map(json.loads, done.out.splitlines())
    return [event["scores"]["loss"] for event in events if "scores" in event]


def test_a_barrier_is_the_same_on_both(folder: Path) -> None:
    argv = ("barrier", *PAIR, *DATA, "--steps", "3", "--json", "--device")
    cpu, gpu = (scores(rebasin(*argv, device, cwd=folder)) for device in ("cpu", DEVICE))
    assert cpu
    assert gpu == pytest.approx(cpu, rel=1e-4)


@pytest.mark.parametrize(("command", "said"), [("verify", "permutation"), ("diff", "relation")])
def test_comparisons_say_the_same(command: str, said: str, folder: Path) -> None:
    aligned = written(SAME["weights"], "cpu", folder)
    argv = (command, PAIR[1], str(aligned), *USER, "--json", "--device")
    cpu, gpu = (rebasin(*argv, device, cwd=folder) for device in ("cpu", DEVICE))
    assert gpu.code == cpu.code
    a, b = (json.loads(done.out.splitlines()[0]) for done in (cpu, gpu))
    assert a[said] == b[said] is not None

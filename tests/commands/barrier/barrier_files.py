"""A user's files and checkpoints for tests of `rebasin barrier`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.cli.build import State, mlp, near, pair, save, shuffled
from tests.cli.harness import Done

NET = """
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

HERE = Path(__file__).parent


def net():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 11), nn.ReLU(),
        nn.Linear(11, 9), nn.ReLU(), nn.Linear(9, 4),
    )


def normed():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def batches():
    teacher = net()
    teacher.load_state_dict(load_file(HERE / "a.safetensors"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        inputs = torch.randn(64, 6, generator=generator)
        yield inputs, teacher(inputs).detach().argmax(1)


def mark():
    with (HERE / "marks").open("a") as marks:
        marks.write("x")
    return (HERE / "marks").stat().st_size


def weight(model):
    mark()
    return model[0].weight.sum()


def third_fails(model):
    if mark() == 3:
        raise RuntimeError("the disk with the images is gone")
    return model[0].weight.sum()


def third_is_nan(model):
    return float("nan") if mark() == 3 else 1.5


def slow(model):
    import time
    if mark() > 2:
        time.sleep(600)
    return 1.0


def words(model):
    return {"loss": 2.0, "top5_accuracy": 0.5, "perplexity": 7.0}


def broken_loader():
    yield next(batches())
    raise OSError("no more images")


def numbers():
    yield 7


def elsewhere():
    yield torch.randn(4, 6, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")


def wide():
    yield torch.randn(4, 7), torch.zeros(4, dtype=torch.long)
"""

BARRIER = ("barrier", "a.safetensors", "b.safetensors", "--spec", "mlp", "--model", "user.py:net")
ON_DATA = (*BARRIER, "--data", "user.py:batches")


def write_user(folder: Path) -> None:
    """Write user.py, the code above, and a pair of perceptrons that differ in order and a bit."""
    (folder / "user.py").write_text(NET)
    pair(folder)


def write_third(folder: Path) -> None:
    """Write c.safetensors, one more perceptron near the pair."""
    state = mlp(1)
    save(folder / "c.safetensors", near(shuffled(state, 5), 6, noise=0.2))


def write_normed(folder: Path) -> None:
    """Write a perceptron with BatchNorm as n.safetensors, and as m.safetensors in another order."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    state: State = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    order = torch.randperm(8)
    moved: dict[str, Tensor] = {
        name: tensor[order] if name[0] in "01" and tensor.dim() else tensor
        for name, tensor in state.items()
    }
    moved["3.weight"] = state["3.weight"][:, order]
    save(folder / "n.safetensors", state)
    save(folder / "m.safetensors", {name: t.contiguous() for name, t in moved.items()})


def points(done: Done, curve: str) -> dict[float, dict[str, float]]:
    """Return the scores of a curve's points by alpha, from events."""
    mine = (e for e in done.events if e.get("curve") == curve)
    return {event["alpha"]: event["scores"] for event in mine}

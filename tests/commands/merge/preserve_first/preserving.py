"""Classes, checkpoints of them and what `merge --preserve-first` makes of them, for its tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from tests.cli.build import State, load, save
from tests.cli.harness import Done, rebasin

NET = """
import torch
from torch import nn

import parts


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 12),
            nn.ReLU(),
            nn.Linear(12, 4),
        )

    def forward(self, x):
        return self.net(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(parts.Block() for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.fc = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(torch.relu(self.fc(self.embed(ids))))


class Random(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


made = Net()
"""
PARTS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 10)
        self.down = nn.Linear(10, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))
"""
PATHS = ("a.safetensors", "b.safetensors")


def imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def classes(folder: Path) -> Iterator[Callable[..., list[nn.Module]]]:
    """Write net.py and parts.py, and yield what writes checkpoints of one of the classes."""
    (folder / "net.py").write_text(NET)
    (folder / "parts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    sys.modules.pop("parts", None)
    net = imported(folder / "net.py", "net_of_tests")

    def write(name: str, seeds: Sequence[int] = (1, 2)) -> list[nn.Module]:
        pairs = zip(seeds, "abc", strict=False)
        return [_written(getattr(net, name), seed, folder / letter) for seed, letter in pairs]

    try:
        yield write
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("parts", None)


def _written(make: Callable[[], nn.Module], seed: int, path: Path) -> nn.Module:
    """Write a checkpoint of a model with random tensors, and return the model."""
    torch.manual_seed(seed)
    model = make()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape))
    tied = "out.weight" in model.state_dict()
    state: State = {n: t.clone() for n, t in model.state_dict().items()}
    if tied:
        del state["out.weight"]
    save(path.with_suffix(".safetensors"), state)
    return model.eval()


def preserved(
    cwd: Path,
    first: str,
    *argv: str,
    model: str = "net.py:Net",
    paths: Sequence[str] = PATHS,
) -> Done:
    """Run the command on checkpoints of a class."""
    words = (*paths, "--preserve-first", first, "--model", model, "--no-cache", *argv)
    return rebasin("merge", *words, cwd=cwd)


def built(path: Path, checkpoint: Path) -> nn.Module:
    """Return what the written module builds, with the written weights."""
    model: nn.Module = imported(path, path.stem).build()
    model.load_state_dict(load(checkpoint), strict=True)
    return model.eval()

"""Small models in files of a user, and checkpoints of them, for tests of tracing."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.build import State, save

NET = """
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        with (Path(__file__).parent / "built").open("a") as marks:
            marks.write("x")
        self.net = nn.Sequential(nn.Linear(6, hidden), nn.Linear(hidden, 12), nn.Linear(12, 4))

    def forward(self, x):
        for layer in self.net[:-1]:
            x = torch.relu(layer(x))
        return self.net[-1](x)


class Headed(nn.Module):
    '''A backbone that has a head, as classes for one task have.'''

    def __init__(self):
        super().__init__()
        self.base = Net()
        self.score = nn.Linear(4, 3)

    def forward(self, x):
        return self.score(torch.relu(self.base(x)))


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        raise KeyError("no such thing as a forward pass")


class Lonely(Net):
    '''A layer that nothing reads.'''

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(5, 5)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.last = nn.Linear(8, 4)
        self.other = nn.Linear(8, 2)

    def forward(self, x, deep=False):
        hidden = torch.relu(self.first(x))
        if deep:
            ranked = (hidden * torch.arange(8.0)).sum(dim=1, keepdim=True)
            return {"logits": self.last(hidden) + ranked, "hidden": hidden}
        return {"logits": self.last(hidden), "other": self.other(hidden)}


def small():
    return torch.randn(2, 6)


def deep():
    return {"x": torch.randn(3, 6), "deep": True}


number = 3
"""


def write_net(folder: Path) -> None:
    """Write net.py, the models above."""
    (folder / "net.py").write_text(NET)


def planted(folder: Path, prefix: str = "net.", ending: str = ".safetensors") -> None:
    """Write a.EXT and b.EXT, two checkpoints of Net that differ in the order of units."""
    generator = torch.Generator().manual_seed(1)
    widths = (6, 16, 12, 4)
    state: State = {}
    moved: State = {}
    orders = [torch.arange(6), *(torch.randperm(n, generator=generator) for n in widths[1:3])]
    orders.append(torch.arange(4))
    for k in range(3):
        weight = torch.randn(widths[k + 1], widths[k], generator=generator)
        bias = torch.randn(widths[k + 1], generator=generator)
        state |= {f"{prefix}{k}.weight": weight, f"{prefix}{k}.bias": bias}
        moved[f"{prefix}{k}.weight"] = weight[orders[k + 1]][:, orders[k]].contiguous()
        moved[f"{prefix}{k}.bias"] = bias[orders[k + 1]].contiguous()
    save(folder / f"a{ending}", state)
    save(folder / f"b{ending}", moved)

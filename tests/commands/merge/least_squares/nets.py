"""Small models for merging by least squares, as a file of a user's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.cli.build import State, save
from tests.cli.harness import Done, rebasin

NET = """
import torch
from torch import nn


def linear():
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))


def relu(widths=(6, 8, 11, 9, 4)):
    pairs = zip(widths[:-1], widths[1:])
    parts = [p for i, o in pairs for p in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


class Conv(nn.Module):
    def __init__(self, widths=(4, 6, 10)):
        super().__init__()
        a, b, c = widths
        self.stem, self.norm = nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a)
        self.left, self.right = nn.Conv2d(a, b, 3, bias=False), nn.Conv2d(b, a, 3, padding=2)
        self.fc, self.out = nn.Linear(a * 9, c), nn.Linear(c, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.right(torch.relu(self.left(x)))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.out(torch.relu(self.fc(x)))


class Block(nn.Module):
    def __init__(self, hidden=12):
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.norm(self.embed(x))
        y = y + self.attn(y, y, y)[0]
        return self.head(y + self.down(torch.relu(self.up(y))))


class Gated(nn.Module):
    def __init__(self, hidden=9):
        super().__init__()
        self.gate, self.up = nn.Linear(6, hidden), nn.Linear(6, hidden)
        self.down = nn.Linear(hidden, 4)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 8), nn.Linear(8, 9), nn.Linear(9, 4)

    def forward(self, x):
        return self.out(torch.relu(self.second(torch.softmax(self.first(x), -1))))


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.left, self.right = nn.Linear(6, 1), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        chosen = self.gate(x)[:, 0] > 0
        y = x.new_zeros(len(x), 4)
        y[chosen], y[~chosen] = self.left(x[chosen]), self.right(x[~chosen])
        return y


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.first(x))))


def _draw(count, *shape):
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield torch.randn(*shape, generator=generator)


def rows():
    return _draw(3, 200, 6)


def few():
    return _draw(1, 3, 6)


def half():
    return (torch.cat([x[:, :3], torch.zeros(200, 3)], 1) for x in _draw(3, 200, 6))


def images():
    return _draw(3, 50, 1, 6, 6)


def tokens():
    return _draw(1, 20, 5, 6)
"""
FILES = ("a.safetensors", "b.safetensors")


def names() -> dict[str, Any]:
    """Return what the file defines."""
    space: dict[str, Any] = {}
    exec(NET, space)
    return space


def drawn(name: str, seed: int, *arguments: Any) -> State:
    """Return the state of a model as it is made after a seed, its statistics away from theirs."""
    torch.manual_seed(seed)
    model: nn.Module = names()[name](*arguments)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data + 0.2 * torch.rand_like(tensor)
    return model.state_dict()


def folder(path: Path, *states: State) -> Path:
    """Write the file and the checkpoints."""
    (path / "net.py").write_text(NET)
    for name, state in zip("abc", states, strict=False):
        save(path / f"{name}.safetensors", state)
    return path


def merge(net: str, data: str, *argv: str, cwd: Path, files: tuple[str, ...] = FILES) -> Done:
    """Merge by least squares."""
    means = ("--method", "least-squares", "--model", f"net.py:{net}", "--data", f"net.py:{data}")
    return rebasin("merge", *files, *means, *argv, cwd=cwd)


def outputs(net: str, state: State, data: str, *arguments: Any) -> Tensor:
    """Return what a model computes on the data, in float64."""
    space = names()
    model: nn.Module = space[net](*arguments)
    model.load_state_dict(state)
    model = model.double().eval()
    with torch.no_grad():
        return torch.cat([model(x.double()) for x in space[data]()])

"""A small pair of trained perceptrons, the data that they were trained on, and their spec."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from rebasin_cli.tensors.blocks import Window
from tests.spec.shapes import bound

WIDTH = 24
SPEC = [
    "0.weight: [h1, ~]",
    "0.bias: [h1]",
    "2.weight: [h2, h1]",
    "2.bias: [h2]",
    "4.weight: [~, h2]",
]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)
    )


def batches(count=10, rows=40, seed=3):
    """Return points of three classes that no line separates."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(9, 6, generator=generator)
    found = []
    for _ in range(count):
        which = torch.randint(9, (rows,), generator=generator)
        points = places[which] + 0.6 * torch.randn(rows, 6, generator=generator)
        found.append((points, which % 3))
    return found


@cache
def trained(seed, steps=150):
    """Return the state dict of a network trained from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = batches()
    for step in range(steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def random_state(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: values.shape for name, values in network().state_dict().items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def bound_spec():
    return bound(SPEC, {name: values.shape for name, values in network().state_dict().items()})


def whole_windows(state):
    return {name: Window(name, values.shape, values.stride()) for name, values in state.items()}

"""Small perceptrons that learn, and what is made of them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cli.build import State

WIDTHS = (12, 48, 40, 32, 5)
ROWS = 256


def perceptron(seed: int) -> nn.Sequential:
    """Return linear layers named 0, 2, 4, 6, as the bundled spec `mlp` has them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for read, written in pairwise(WIDTHS):
        layers += [nn.Linear(read, written), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def task(seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs, and what a network that nobody has says of them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, WIDTHS[0], generator=generator)
    teacher = torch.randn(WIDTHS[0], WIDTHS[-1], generator=generator)
    return inputs, (inputs @ teacher).tanh().argmax(1)


def trained(state: State, seed: int, *, steps: int = 30, rate: float = 2e-3) -> State:
    """Return a state after some steps on a task."""
    net = perceptron(0)
    net.load_state_dict(state)
    inputs, targets = task(seed)
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        adam.step()
    return {name: value.clone() for name, value in net.state_dict().items()}


def base(seed: int = 0) -> State:
    """Return a network that was trained; all seeds learn one task."""
    return trained(fresh(seed), 100, steps=60, rate=5e-3)


def fresh(seed: int) -> State:
    """Return a network that has learnt nothing."""
    return dict(perceptron(seed).state_dict())


def scaled(state: State) -> State:
    """Return the same function: hidden units scaled, and divided where they are read."""
    made = {name: value.clone() for name, value in state.items()}
    generator = torch.Generator().manual_seed(0)
    for k in (0, 2, 4):
        scale = 4 ** (2 * torch.rand(len(made[f"{k}.bias"]), generator=generator) - 1)
        made[f"{k}.weight"] *= scale[:, None]
        made[f"{k}.bias"] *= scale
        made[f"{k + 2}.weight"] /= scale
    return made

"""Plain and residual perceptrons."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (6, 8, 11, 9, 4)


def sequential_mlp() -> nn.Sequential:
    """Return linear layers named 0, 2, 4, 6, with activations between them."""
    layers = [m for a, b in pairwise(WIDTHS) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class LayeredMlp(nn.Module):
    """Linear layers named layers.0, layers.1, ..."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(WIDTHS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class ResidualMlp(nn.Module):
    """Square layers that read a stream and write to it: one group on both axes of a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.out(x)

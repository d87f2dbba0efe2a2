"""Small networks, and what the tests of the library ask of state dicts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import randomise

PICTURE = (3, 8, 8)


def mlp(seed: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    layers = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    return _drawn(nn.Sequential(*layers), seed).to(dtype)


class Convolutions(nn.Module):
    """No bundled spec fits it: it has to be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.body(x).flatten(1))
        return head


def convolutions(seed: int) -> Convolutions:
    return _drawn(Convolutions(), seed)


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, *PICTURE, generator=torch.Generator().manual_seed(0))


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(pictures(8), torch.arange(8) % 5)]


def copied(model: nn.Module | Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as it is now."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {n: t.clone() if isinstance(t, Tensor) else t for n, t in state.items()}


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two states have the same names in one order, dtypes, and bits."""
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def computed(model: nn.Module, state: Mapping[str, Any], inputs: Tensor) -> Tensor:
    """Return what a model computes in float64 with a state that is strictly loaded."""
    copied = copy.deepcopy(model)
    copied.load_state_dict(state, strict=True)
    with torch.no_grad():
        found: Tensor = copied.double().eval()(inputs.double())
    return found


def memories(*states: Mapping[str, Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for state in states for tensor in state.values()}


def _drawn(model: nn.Module, seed: int) -> Any:
    return randomise(model, seed)

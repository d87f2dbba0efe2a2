"""Maps as functions of free numbers: Q = expm(S) Q0 with S skew, from where a search has ended.

The exponential of a skew matrix is orthogonal, and every orthogonal matrix of the same determinant
as Q0 is reached. What else a class asks for is asked of S: rows that sum to zero keep the vector of
ones where it is, and one angle for each pair is all that rotary positions allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.spec.language.model import KEEPING_MEAN
from rebasin_cli.symmetry.maps import GroupMaps

Projection = Callable[[Tensor], Tensor]  # of a skew matrix to those that a class allows


def _center(skew: Tensor) -> Tensor:
    skew = skew - skew.mean(-1, keepdim=True)
    return skew - skew.mean(-2, keepdim=True)


def _half_split(skew: Tensor) -> Tensor:
    first = torch.arange(skew.shape[-1] // 2, device=skew.device)
    return _only(skew, first, first + len(first))


def _only_interleaved(skew: Tensor) -> Tensor:
    even = torch.arange(0, skew.shape[-1], 2, device=skew.device)
    return _only(skew, even, even + 1)


def _only(skew: Tensor, first: Tensor, second: Tensor) -> Tensor:
    kept = torch.zeros(skew.shape[-2:], dtype=torch.bool, device=skew.device)
    kept[first, second] = kept[second, first] = True
    return torch.where(kept, skew, 0)


# Permutations and signs have nothing between them: they stay as they are.
PROJECTIONS: Mapping[str, Projection] = {
    "orthogonal": lambda skew: skew,
    KEEPING_MEAN: _center,
    "rotary": _half_split,
    "rotary-interleaved": _only_interleaved,
}


@dataclass(frozen=True)
class MapParameters:
    """The free numbers of all groups whose class has any, and the maps that they begin at."""

    start: GroupMaps
    classes: Mapping[str, str]
    free: Mapping[str, Tensor]

    @classmethod
    def at(cls, start: GroupMaps, classes: Mapping[str, str]) -> MapParameters:
        """Return the parameters of maps, all zero: they stand for those maps."""
        turning = (n for n in start.linear if classes[n] in PROJECTIONS)
        free = {n: torch.zeros_like(start.linear[n].matrix).requires_grad_() for n in turning}
        return cls(start, classes, free)

    def maps(self) -> GroupMaps:
        """Return the maps, with gradients by the free numbers."""
        linear = dict(self.start.linear)
        for name, values in self.free.items():
            skew = PROJECTIONS[self.classes[name]](values - values.mT)
            turned = torch.linalg.matrix_exp(skew) @ linear[name].matrix
            linear[name] = replace(linear[name], matrix=turned)
        return GroupMaps(self.start.permutations, linear)

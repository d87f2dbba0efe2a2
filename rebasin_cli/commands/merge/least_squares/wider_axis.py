"""Axes on which some units of two models are merged, and the others stand twice.

Source: Nasery et al. 2024, "PLeaS: Merging Models with Permutations and Least Squares" (arXiv
2407.02447), section 3.1: a merged layer holds the units of both, those of the first alone, and
those of the second alone. Here the first n keep the places of the reference, merged or not, and
those of the second model that are not merged follow behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.spec.binding.axis_sides import axis_of
from rebasin_cli.tensors.blocks import BoundTensor, Dim

SHARED = -1  # the owner of what is merged of all models


@dataclass(frozen=True)
class WiderAxis:
    """Where the m places of a merged axis come from.

    source: (m,) int64, the place on the axis of a parent. owner: (m,) int64, the number of the
    model whose unit stands there alone, or SHARED.
    """

    source: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.source)

    @property
    def before(self) -> int:
        """How many places a parent has: each is the source of one here."""
        return int(self.source.max()) + 1

    def written(self, model: int, share: float) -> Tensor:
        """Return what a model's units are multiplied by before those of all are added, (m,)."""
        own = (self.owner == model).double()
        return torch.where(self.owner == SHARED, share, own)

    def read(self, model: int) -> Tensor:
        """Return 1 where a reader of a model finds its unit, 0 where another's stands, (m,)."""
        return ((self.owner == SHARED) | (self.owner == model)).double()


def wider_units(size: int, apart: Tensor) -> WiderAxis:
    """Return the wider axis of `size` units, of which those in `apart` are not merged."""
    apart = apart.sort().values
    owner = torch.full((size + len(apart),), SHARED)
    owner[apart] = 0
    owner[size:] = 1
    return WiderAxis(torch.cat([torch.arange(size), apart]), owner)


def axis_with(tensor: BoundTensor, dim: Dim, units: WiderAxis) -> tuple[int, WiderAxis]:
    """Return which axis of a tensor a group's dimension lies on, and what becomes of all of it.

    units: what becomes of the group. A channel that was flattened with its pixels takes them along.
    """
    axis = axis_of(tensor, dim)
    assert axis is not None, "a dimension with a side has an axis"
    step = prod(tensor.shape[axis + 1 :])
    inner = dim.stride // step
    places = torch.arange(tensor.shape[axis]).reshape(-1, dim.size, inner)
    owner = units.owner[:, None].expand(len(places), -1, inner)
    return axis, WiderAxis(places.index_select(1, units.source).flatten(), owner.flatten())

"""Linear maps of hidden units, and models whose tensors are mapped as they are loaded.

A tensor that writes the units of a group is multiplied from the left by the group's write map, one
that reads them from the right by its read map. Where the two are inverse of one another, a
network without nonlinearities keeps its function. Variances take the squares of the write map, as
for units that are independent: linearly, some would become negative.

W1 <- T W1, b <- T b, W2 <- W2 R with R T = 1; a permutation is the case R = T' that every
elementwise function lets pass. In all others a nonlinearity in between makes it an approximation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.commands.merge.linear_maps.axis_roles import SPREAD, Sides, side_of
from rebasin_cli.spec.binding.axis_sides import READ, Side
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.numbers import in_reals, of_reals


@dataclass(frozen=True)
class LinearMap:
    """What becomes of the n units of a group of one model; float64.

    write: (n, n), new units from old ones. read: (n, n), old units, as their readers know them,
    from new ones.
    """

    write: Tensor
    read: Tensor


def identity_map(size: int) -> LinearMap:
    """Return the map that leaves units as they are."""
    return LinearMap(torch.eye(size).double(), torch.eye(size).double())


class Mapped(Derived):
    """A TensorSource whose tensors are mapped as they are loaded, in float32 or wider.

    maps: by group; each has a clear side in every tensor it occurs in. Others pass through.
    """

    def __init__(
        self,
        source: TensorSource,
        tensors: Sequence[BoundTensor],
        maps: Mapping[str, LinearMap],
        sides: Sides,
    ) -> None:
        super().__init__(source)
        self._maps, self._sides = maps, sides
        moved = (tensor for tensor in tensors if tensor.groups & maps.keys())
        self._tensors = {tensor.members[0]: tensor for tensor in moved}

    def load(self, name: str) -> Tensor:
        loaded = self._source.load(name)
        if name not in self._tensors or not self.info(name).floating:
            return loaded
        tensor = self._tensors[name]
        result = in_reals(loaded.contiguous()).to(torch.float64, copy=True)
        for block in tensor.blocks:
            view = block.view(result)
            view.copy_(self._mapped(view, tensor, block))
        wide = torch.promote_types(torch.float32, loaded.dtype)
        return of_reals(result, loaded.dtype).to(wide)

    def _mapped(self, values: Tensor, tensor: BoundTensor, block: Block) -> Tensor:
        for axis, dim in enumerate(block.dims):
            if dim.group is not None and dim.group in self._maps:
                matrix = _matrix(self._maps[dim.group], side_of(tensor, dim, self._sides))
                values = torch.tensordot(matrix, values, dims=([1], [axis])).movedim(0, axis)
        return values


def _matrix(found: LinearMap, side: Side | None) -> Tensor:
    """Return what an axis of a side is multiplied by from the left."""
    if side == READ:
        return found.read.T
    return found.write.square() if side == SPREAD else found.write

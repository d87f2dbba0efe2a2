"""What is done to a tensor of one model for it to be one of another, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class TensorMap(Protocol):
    """A linear map of tensors."""

    def apply(self, values: Tensor) -> Tensor:
        """Return a tensor of the origin's shape in the target's, float64."""

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that a tensor is mapped to; () if the map does not fit it."""


@dataclass(frozen=True)
class AxisMap:
    """Matrices by axis: (n of the origin, n of the target).

    A gain d is a diagonal matrix, and stays one: that of T' diag(d) S is what T * S makes of d.
    """

    axes: Mapping[int, Tensor]

    def apply(self, values: Tensor) -> Tensor:
        """Return a tensor of the origin's shape in the target's, float64."""
        values = values.double()
        for axis, matrix in self.axes.items():
            values = torch.tensordot(values, matrix, ([axis], [0])).movedim(-1, axis)
        return values

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that a tensor is mapped to; () if the maps do not fit its axes."""
        if any(shape[axis] != matrix.shape[0] for axis, matrix in self.axes.items()):
            return ()
        return tuple(
            self.axes[axis].shape[1] if axis in self.axes else size
            for axis, size in enumerate(shape)
        )


@dataclass(frozen=True)
class StackedMaps:
    """Maps of parts of a tensor of one size, one behind the other along its first axis."""

    parts: Sequence[AxisMap]

    def apply(self, values: Tensor) -> Tensor:
        """Return a tensor of the origin's shape in the target's, float64."""
        pairs = zip(self.parts, values.chunk(len(self.parts)), strict=True)
        return torch.cat([one.apply(part) for one, part in pairs])

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that a tensor is mapped to; () if it has not all parts."""
        count = len(self.parts)
        shapes = {one.shape_after((shape[0] // count, *shape[1:])) for one in self.parts}
        if shape[0] % count or len(shapes) > 1 or () in shapes:
            return ()
        ((size, *rest),) = shapes
        return (size * count, *rest)

"""The plane through three models, in coordinates that keep the distances between weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import torch

from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.numbers import in_reals

FLAT = 1e-6  # of a side: a triangle that is lower is a line, in the float32 of most checkpoints

PlanePoint = tuple[float, float]
ModelWeights = tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """A triangle of models: A in the origin, B on the first axis, C above that axis.

    base: the distance from A to B. corner: where C is.
    """

    base: float
    corner: PlanePoint

    @property
    def corners(self) -> tuple[PlanePoint, PlanePoint, PlanePoint]:
        return (0.0, 0.0), (self.base, 0.0), self.corner

    def weights(self, place: PlanePoint) -> ModelWeights:
        """Return the weights of A, B and C, of sum 1, whose mean lies at a place."""
        third = place[1] / self.corner[1]
        second = (place[0] - third * self.corner[0]) / self.base
        return 1 - second - third, second, third

    def grid(self, steps: int, margin: float) -> list[PlanePoint]:
        """Return steps x steps places, row by row from below, around the triangle.

        margin: how far the grid goes beyond it on each side, as a share of its extent.
        """
        xs, ys = zip(*self.corners, strict=True)
        across, up = _spread(min(xs), max(xs), steps, margin), _spread(0.0, max(ys), steps, margin)
        return [(x, y) for y in up for x in across]


def plane_through(a: TensorSource, b: TensorSource, c: TensorSource, names: Iterable[str]) -> Plane:
    """Return the plane of three models, over the named tensors, in float64 (Gram-Schmidt).

    Raises CheckpointError if two of the models are one, or all three lie on a line.
    """
    first, mixed, second = 0.0, 0.0, 0.0
    for name in names:
        origin, p, q = (in_reals(source.load(name)).to(torch.float64) for source in (a, b, c))
        u, v = (p - origin).flatten(), (q - origin).flatten()
        first, second = first + float(u @ u), second + float(v @ v)
        mixed += float(u @ v)
    base = sqrt(first)
    along = mixed / base if base else 0.0
    height = sqrt(max(second - along**2, 0.0))
    if base == 0 or height <= FLAT * max(base, sqrt(second)):
        raise CheckpointError(
            "the three models lie on a line, so there is no plane through them",
            detail=f"|B-A| is {base:.4g}, C is {height:.4g} away from the line through A and B",
        )
    return Plane(base, (along, height))


def _spread(low: float, high: float, steps: int, margin: float) -> list[float]:
    """Return evenly spaced numbers from below `low` to above `high`."""
    beyond = margin * (high - low)
    start, extent = low - beyond, high - low + 2 * beyond
    return [start + extent * k / (steps - 1) for k in range(steps)]

"""Which axes of a tensor write the units of a group, and which read them.

A layer sums over the units that it reads, and its outputs are the units that it writes. A spec and
the shapes of a checkpoint do not say which axis is which; it follows from where the axis stands:

    Linear, Conv             (out, in, ...)           axis 0 writes, axis 1 reads
    Embedding, ConvTranspose, GPT-2's Conv1D: what is listed under `transposed:`
                             (in, out, ...)           axis 0 reads, axis 1 writes
    batch of matrices        (..., out, in)           the last two as above; those before count
                                                      the matrices, and write and read
    stack of tensors         (names, out, in, ...)    the axis of names likewise
    depthwise Conv           (units, 1, ...)          axis 0 may write: it does both, or is the
                                                      first layer, which reads one channel
    depthwise ConvTranspose  (units, 1, ...), listed  axis 0 may read: it does both, or is the
                                                      last layer, which writes one channel
    bias, scale, statistic   (units)                  neither: it follows what is written

Further axes, such as those of kernels, do neither. A batch of matrices is what has groups of units
on three axes or more; a grouped convolution is none: (groups * out, in, ...).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import Enum

from rebasin_cli.tensors.blocks import BoundTensor, Dim


class Side(Enum):
    """What an axis does with the units on it; SPREAD: variances of what is written.

    Positions do not tell SPREAD.
    """

    WRITE = "write"
    READ = "read"
    MAY_WRITE = "may write"
    MAY_READ = "may read"
    SPREAD = "spread"


WRITE, READ, MAY_WRITE, MAY_READ = Side.WRITE, Side.READ, Side.MAY_WRITE, Side.MAY_READ
MATRIX = 2  # axes

AxisSides = tuple[Side, ...]  # of one axis: none, one, or both

_BOTH: AxisSides = (WRITE, READ)


def sides_by_position(
    shape: Sequence[int], owned: Sequence[bool], *, stacked: bool, transposed: bool
) -> list[AxisSides]:
    """Return what each axis does. owned: whether a group stands on it."""
    if stacked:
        return [_BOTH, *_of_one(shape[1:], owned[1:], transposed)]
    return _of_one(shape, owned, transposed)


def _of_one(shape: Sequence[int], owned: Sequence[bool], transposed: bool) -> list[AxisSides]:
    axes = [axis for axis, has_group in enumerate(owned) if has_group]
    sides: list[AxisSides] = [()] * len(shape)
    if len(shape) < MATRIX:
        return sides
    write, read = (READ, WRITE) if transposed else (WRITE, READ)
    if len(axes) > MATRIX:
        *batch, out, into = axes
        for axis in batch:
            sides[axis] = _BOTH
        sides[out], sides[into] = (write,), (read,)
        return sides
    sides[0], sides[1] = (write,), (read,)
    if shape[1] == 1 and not owned[1]:
        sides[0] = (MAY_READ,) if transposed else (MAY_WRITE,)
    return sides


def axis_sides(tensor: BoundTensor, transposed: Container[str]) -> list[AxisSides]:
    """Return what each axis of a bound tensor does. transposed: names stored as (in, out)."""
    axes = {axis_of(tensor, dim) for block in tensor.blocks for dim in block.dims if dim.group}
    return sides_by_position(
        tensor.shape,
        [axis in axes for axis in range(len(tensor.shape))],
        stacked=tensor.stacked,
        transposed=any(name in transposed for name in tensor.members),
    )


def axis_of(tensor: BoundTensor, dim: Dim) -> int | None:
    """Return the axis that a dimension is a part of; None if its stride lies on none."""
    step = 1
    for axis in reversed(range(len(tensor.shape))):
        if step <= dim.stride < step * tensor.shape[axis]:
            return axis
        step *= tensor.shape[axis]
    return None

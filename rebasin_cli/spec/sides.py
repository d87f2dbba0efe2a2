"""Which groups stand on plain axes that clearly write or read their units.

A permutation moves every axis of a group alike. A linear map does not: what writes units is
multiplied by it, what reads them by its inverse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.bound import BoundGroup
from rebasin_cli.tensors import BoundTensor, Dim

SPREAD = "spread"  # variances of what is written
Sides = Mapping[str, Sequence[str | None]]
"""What each axis of a tensor does with units: WRITE, READ (as in `symmetry`), SPREAD, or None."""


@dataclass(frozen=True)
class Mappable:
    """Groups to which a linear map can be applied; the others, with a reason each."""

    groups: tuple[str, ...]
    others: Mapping[str, str]


def mappable(
    groups: Iterable[BoundGroup], tensors: Sequence[BoundTensor], sides: Sides
) -> Mappable:
    """Return which groups have a clear side everywhere, and no order inside others or others in it.

    sides: of the tensors of which they are known, by the name of the tensor.
    """
    groups = tuple(groups)
    others: dict[str, str] = {}
    for group in groups:
        for parent in group.parents:
            others[group.name] = f"it has an order of its own for each {parent}"
            others.setdefault(parent, f"{group.name} has an order of its own for each of its units")
    for tensor in tensors:
        for name, why in _unclear(tensor, sides):
            others.setdefault(name, why)
    names = [group.name for group in groups]
    clear = tuple(name for name in names if name not in others)
    return Mappable(clear, {name: others[name] for name in names if name in others})


def _unclear(tensor: BoundTensor, sides: Sides) -> Iterator[tuple[str, str]]:
    name = tensor.members[0]
    for dim in (dim for block in tensor.blocks for dim in block.dims if dim.group is not None):
        if tensor.stacked:
            yield str(dim.group), f"it stands on {name}, one tensor of a stack"
        elif side_of(tensor, dim, sides) is None:
            yield str(dim.group), f"whether {name} writes or reads its units is not clear"


def side_of(tensor: BoundTensor, dim: Dim, sides: Sides) -> str | None:
    """Return what the axis of a tensor that a dimension lies on does; None: not known."""
    axis, known = axis_of(tensor, dim), sides.get(tensor.members[0], ())
    return known[axis] if axis is not None and axis < len(known) else None


def axis_of(tensor: BoundTensor, dim: Dim) -> int | None:
    """Return the axis that a dimension is a part of; None if its stride lies on none."""
    step = 1
    for axis in reversed(range(len(tensor.shape))):
        if step <= dim.stride < step * tensor.shape[axis]:
            return axis
        step *= tensor.shape[axis]
    return None

"""Tensors with more units: the old ones keep their values, the new ones are zero.

A unit whose weights, bias, gain and all that reads it are zero adds nothing to any other. Inside
products of groups, as heads times dims, every old unit keeps its place among those of its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from rebasin_cli.errors import UsageError
from rebasin_cli.spec.binding.axis_sides import axis_of
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim
from rebasin_cli.tensors.numbers import in_reals, of_reals

NEW = -1  # the source of a place that no unit had


@dataclass(frozen=True)
class GrownAxis:
    """Where the m places of an axis come from, and what they are multiplied by.

    source: (m,) int64, a place on the old axis, or NEW. factor: (m,) float64.
    """

    source: Tensor
    factor: Tensor

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class GrownTensor:
    """What becomes of one tensor.

    axes: those that grow or are multiplied, by their number. fill: of new places. centred: axes
    whose mean is taken off first. offset: what its model adds to it, before it is multiplied.
    """

    axes: Mapping[int, GrownAxis]
    fill: float = 0.0
    centred: tuple[int, ...] = ()
    offset: float = 0.0

    def shape(self, before: Sequence[int]) -> tuple[int, ...]:
        return tuple(len(self.axes[k]) if k in self.axes else n for k, n in enumerate(before))

    def grown(self, tensor: Tensor) -> Tensor:
        """Return a tensor with its new units, in its own dtype; what only grows keeps every bit."""
        found = self.unrounded(tensor)
        return found if found.dtype == tensor.dtype else found.to(tensor.dtype)

    def unrounded(self, tensor: Tensor) -> Tensor:
        """Return the same, in float64 where values are computed."""
        values = in_reals(tensor)
        if self.computes:
            values = self._multiplied(values.double())
        for number, axis in self.axes.items():
            taken = values.index_select(number, axis.source.clamp(min=0))
            values = taken.index_fill_(number, (axis.source == NEW).nonzero().flatten(), self.fill)
        return of_reals(values, tensor.dtype)

    @property
    def computes(self) -> bool:
        """Whether old values change too."""
        return bool(self.centred) or any(bool((a.factor != 1).any()) for a in self.axes.values())

    def _multiplied(self, values: Tensor) -> Tensor:
        for number in self.centred:
            values = values - values.mean(number, keepdim=True)
        values = values + self.offset
        for number, axis in self.axes.items():
            old = axis.source != NEW
            factor = torch.ones(values.shape[number], dtype=torch.float64)
            factor[axis.source[old]] = axis.factor[old]
            values = values * factor.view([-1 if k == number else 1 for k in range(values.dim())])
        return values - self.offset


@dataclass(frozen=True)
class NewSizes:
    """How groups grow. new: group -> its new size. factors: group -> a factor of its old units."""

    new: Mapping[str, int]
    factors: Mapping[str, float] = field(default_factory=dict)


def grown_axes(tensor: BoundTensor, sizes: NewSizes) -> dict[int, GrownAxis]:
    """Return the axes of a bound tensor that grow or are multiplied, by their number.

    Of a stack the axes are those of its members. Raises UsageError where parts of one axis, cut
    along another, would grow by different amounts.
    """
    rows: dict[int, dict[int, tuple[int, GrownAxis]]] = {}
    for block in tensor.blocks:
        for axis, start, end, dims in _extents(tensor, block):
            step = prod(tensor.shape[axis + 1 :])
            if _alternates(end - start, dims, step):
                _refuse_growth(tensor, dims, sizes)
                part = end, _kept_units(range(start, end))
            else:
                part = end, _part(range(start, end), dims, step, sizes)
            known = rows.setdefault(axis, {}).setdefault(start, part)
            if _idle(start, *known) and _idle(start, *part):
                rows[axis][start] = max(known, part, key=lambda found: found[0])
            elif not _is_same_axis(known, part):
                raise _uneven(tensor)
    shift = int(tensor.stacked)
    return {
        axis - shift: joined
        for axis, parts in rows.items()
        if (joined := _joined(parts, tensor, axis)) is not None
    }


def _extents(tensor: BoundTensor, block: Block) -> Iterator[tuple[int, int, int, list[Dim]]]:
    """Yield each axis with the first place of a block on it, the one after its last, and the
    dimensions of groups there, the outermost first.
    """
    last = block.offset + sum((dim.size - 1) * dim.stride for dim in block.dims)
    owned = sorted((d for d in block.dims if d.group), key=lambda d: -d.stride)
    for axis, size in enumerate(tensor.shape):
        step = prod(tensor.shape[axis + 1 :])
        dims = [dim for dim in owned if axis_of(tensor, dim) == axis]
        yield axis, block.offset // step % size, last // step % size + 1, dims


def _alternates(length: int, dims: Sequence[Dim], step: int) -> bool:
    """Return whether units of other groups stand between those of a block along an axis."""
    return any(length % (dim.size * dim.stride // step) for dim in dims if dim.size > 1)


def _refuse_growth(tensor: BoundTensor, dims: Sequence[Dim], sizes: NewSizes) -> None:
    changed = [d.group for d in dims if d.group in sizes.new or d.group in sizes.factors]
    if changed:
        raise UsageError(
            f"units of {changed[0]!r} alternate with others in {tensor.members[0]}",
            hint="widen groups whose units lie side by side: as channels that are not shuffled",
        )


def _kept_units(places: range) -> GrownAxis:
    return GrownAxis(torch.tensor(places), torch.ones(len(places), dtype=torch.float64))


def _part(places: range, dims: Sequence[Dim], step: int, sizes: NewSizes) -> GrownAxis:
    """Return what becomes of some places, a product of groups and of fixed factors."""
    grid, factor = torch.tensor(places), 1.0
    old, new, inside = [], [], len(places)
    for dim in dims:
        inner, name = dim.stride // step, str(dim.group)
        old += [inside // (dim.size * inner), dim.size]
        new += [old[-2], sizes.new.get(name, dim.size)]
        inside, factor = inner, factor * sizes.factors.get(name, 1.0)
    grid = grid.view(*old, inside)
    for axis, size in enumerate(new):
        more = [size - n if k == axis else n for k, n in enumerate(grid.shape)]
        grid = torch.cat([grid, torch.full(more, NEW)], axis)
    source = grid.flatten()
    return GrownAxis(source, torch.full((len(source),), factor, dtype=torch.float64))


def _is_same_axis(one: tuple[int, GrownAxis], other: tuple[int, GrownAxis]) -> bool:
    ours, theirs = one[1], other[1]
    same = torch.equal(ours.source, theirs.source) and torch.equal(ours.factor, theirs.factor)
    return same and one[0] == other[0]


def _joined(
    parts: Mapping[int, tuple[int, GrownAxis]], tensor: BoundTensor, axis: int
) -> GrownAxis | None:
    """Return the parts of an axis behind one another; None if nothing becomes of them."""
    parts = _without_overlap(parts, tensor)
    ordered = [parts[start] for start in sorted(parts)]
    source = torch.cat([part.source for _, part in ordered])
    factor = torch.cat([part.factor for _, part in ordered])
    if all(_idle(start, end, part) for start, (end, part) in parts.items()):
        return None
    if [end for end, _ in ordered] != [*sorted(parts)[1:], tensor.shape[axis]]:
        raise _uneven(tensor)
    return GrownAxis(source, factor)


def _without_overlap(
    parts: Mapping[int, tuple[int, GrownAxis]], tensor: BoundTensor
) -> Mapping[int, tuple[int, GrownAxis]]:
    """Return the parts of an axis, overlapping ones joined; these must not grow."""
    runs: dict[int, tuple[int, GrownAxis]] = {}
    for start, (end, part) in sorted(parts.items(), key=lambda item: item[0]):
        last = max(runs, default=0)
        if not runs or runs[last][0] <= start:
            runs[start] = end, part
            continue
        if not (_idle(start, end, part) and _idle(last, *runs[last])):
            raise _uneven(tensor)
        longest = max(end, runs[last][0])
        runs[last] = longest, _kept_units(range(last, longest))
    return runs


def _idle(start: int, end: int, part: GrownAxis) -> bool:
    still = torch.equal(part.source, torch.arange(start, end))
    return still and bool((part.factor == 1).all())


def _uneven(tensor: BoundTensor) -> UsageError:
    return UsageError(
        f"{tensor.members[0]} is cut into parts that would not be of one width",
        hint="widen their groups by amounts that fit one another",
    )

"""A bound weight taken apart along its axes, so that what has some of them moves as they do.

A weight (out, in) moves as W <- P W Q'. The factors of B A move as B <- P B and A <- A Q', exactly,
if P is the same for all columns and Q for all rows: if the blocks of the weight are a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from rebasin_cli.errors import PermutationError
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim


@dataclass(frozen=True)
class AxisSegment:
    """A piece of one axis. offset, strides: in elements of that axis."""

    offset: int
    dims: tuple[Dim, ...]

    @property
    def size(self) -> int:
        return prod(dim.size for dim in self.dims)


def along_axes(
    tensor: BoundTensor,
    axes: Sequence[int | None],
    shape: Sequence[int],
    *,
    members: tuple[str, ...],
    groups: Mapping[str, BoundGroup],
) -> BoundTensor:
    """Return a tensor of another shape whose axes move as those of a bound one do.

    axes: for each axis of `shape` that of the bound tensor that it is, None: it stays.
    Raises PermutationError where the bound tensor moves in a way that no axis does by itself.
    """
    grid = _grid(tensor, groups)
    steps = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    choices = [
        [AxisSegment(0, (Dim(size, 1),))] if axis is None else grid[axis]
        for axis, size in zip(axes, shape, strict=True)
    ]
    blocks = tuple(_block(segments, steps) for segments in product(*choices))
    for block in blocks:
        _check_parents(block, tensor, groups)
    return replace(tensor, members=members, shape=tuple(shape), blocks=blocks)


def _block(segments: Sequence[AxisSegment], steps: Sequence[int]) -> Block:
    dims = [
        replace(dim, stride=dim.stride * step)
        for segment, step in zip(segments, steps, strict=True)
        for dim in segment.dims
        if dim.size > 1 or dim.group
    ]
    return Block(sum(s.offset * n for s, n in zip(segments, steps, strict=True)), tuple(dims))


def _check_parents(block: Block, tensor: BoundTensor, groups: Mapping[str, BoundGroup]) -> None:
    for name in filter(None, block.groups):
        lacking = set(groups[name].parents) - set(block.groups)
        if lacking:
            raise _torn(tensor, f"units of {name!r} move inside {min(lacking)!r}, on another axis")


def _grid(tensor: BoundTensor, groups: Mapping[str, BoundGroup]) -> list[list[AxisSegment]]:
    """Return the segments of each axis. Raises PermutationError if blocks are no grid of them."""
    rows = [tuple(_segments(block, tensor.shape, groups)) for block in tensor.blocks]
    grid = [list(dict.fromkeys(segments)) for segments in zip(*rows, strict=True)]
    covered = [sum(segment.size for segment in segments) for segments in grid]
    if covered != list(tensor.shape) or len(set(rows)) != prod(map(len, grid)):
        raise _torn(tensor, "rows of it move differently in different columns")
    return grid


def _torn(tensor: BoundTensor, detail: str) -> PermutationError:
    return PermutationError(f"no factor of {tensor.members[0]!r} can follow it", detail=detail)


def _segments(
    block: Block, shape: Sequence[int], groups: Mapping[str, BoundGroup]
) -> Iterator[AxisSegment]:
    """Yield the part of a block on each axis.

    A unit that is alone has a stride that tells no axis. It stands on that of the units that it is
    inside of, as a sign does; without any before what follows it, as the only head of keys does.
    """
    steps = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    pieces = [_cut(dim, steps, shape) for dim in block.dims]
    owned: list[list[Dim]] = [[] for _ in shape]
    axes: dict[str | None, int] = {}
    for number, dim in enumerate(block.dims):
        outer = [axes[name] for name in _parents(dim, groups) if name in axes]
        behind = [axis for later in pieces[number:] for axis, _ in later]
        lone = (*outer[-1:], *behind[:1], len(shape) - 1)[0]
        for axis, piece in pieces[number] or [(lone, replace(dim, stride=1))]:
            owned[axis].append(piece)
            axes[dim.group] = axis
    for axis, step in enumerate(steps):
        yield AxisSegment(block.offset // step % shape[axis], tuple(owned[axis]))


def _parents(dim: Dim, groups: Mapping[str, BoundGroup]) -> Sequence[str]:
    return groups[dim.group].parents if dim.group is not None else ()


def _cut(dim: Dim, steps: Sequence[int], shape: Sequence[int]) -> list[tuple[int, Dim]]:
    """Return a dimension with its axis, a fixed one that spans several axes in pieces."""
    found = []
    size, stride = dim.size, dim.stride
    for axis in reversed(range(len(shape))):
        end = steps[axis] * shape[axis]
        if stride >= end or size == 1:
            continue
        here = min(size, -(-end // stride))  # of interleaved units the last may be missing
        found.append((axis, Dim(here, stride // steps[axis], dim.group)))
        size, stride = size // here, stride * here
    return found[::-1]

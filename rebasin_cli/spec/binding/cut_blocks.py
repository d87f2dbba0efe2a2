"""Axis expressions with known sizes to blocks: strided views that cover a tensor exactly.

A product is row-major: factor k of sizes n_1 * ... * n_r has the stride n_(k+1) ... n_r along its
axis. A segment of a sum has the sizes before it as its offset, and part j of k
interleaved ones the offset j and k times the strides. An expression is therefore as many pieces as
it has ways to choose a segment or part wherever there are any, and a tensor the combinations of
those of its axes: every element is in one of them, and permuting a group is reordering one
dimension of views.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod

from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Fixed,
    Interleaving,
    Named,
    Product,
    TextPlace,
    parts_of,
)
from rebasin_cli.tensors.blocks import Block, Dim

Owner = Callable[[str], str | None]


@dataclass(frozen=True)
class AxisDim:
    """A dimension, the tensor axis that it is a part of, and its place in the spec."""

    axis: int
    dim: Dim
    at: TextPlace | None


@dataclass(frozen=True)
class Piece:
    """A block in the making: the offset and dimensions along one axis or several."""

    offset: int
    dims: tuple[AxisDim, ...]

    def scaled(self, step: int) -> Piece:
        """Return the piece with offset and strides times `step`.

        From steps along an axis to steps in memory, or along an outer factor's axis.
        """
        dims = tuple(
            AxisDim(d.axis, Dim(d.dim.size, d.dim.stride * step, d.dim.group), d.at)
            for d in self.dims
        )
        return Piece(self.offset * step, dims)

    @property
    def block(self) -> Block:
        return Block(self.offset, tuple(_merged([d.dim for d in self.dims])))


def cut_pieces(placement: Placement, sizes: Mapping[str, int], owner: Owner) -> list[Piece]:
    """Return the pieces of a tensor, which cover it exactly.

    owner: from a name in an expression to its group, or None for a size.
    The parts of a split lie behind one another along one axis: each begins where the sizes of the
    parts before it, in steps of that axis, end.
    """
    steps = [prod(placement.shape[axis + 1 :]) for axis in range(len(placement.shape))]
    found: list[Piece] = []
    start = 0
    for part in placement.parts:
        found += (
            Piece(piece.offset + start, piece.dims) for piece in _part(part, steps, sizes, owner)
        )
        if placement.split is not None:
            start += axis_size(part[placement.split], sizes) * steps[placement.split]
    return found


def axis_size(tree: AxisExpr, sizes: Mapping[str, int]) -> int:
    """Return the size of an axis expression."""
    if isinstance(tree, Fixed):
        return tree.size or 0
    if isinstance(tree, Named):
        return sizes[tree.name]
    total = prod if isinstance(tree, Product) else sum
    return total(axis_size(part, sizes) for part in parts_of(tree))


def count_pieces(axes: Axes) -> int:
    """Return the number of pieces that axis expressions give, before any of them is made."""
    return prod(_count(axis) for axis in axes)


def _count(tree: AxisExpr) -> int:
    if isinstance(tree, Named | Fixed):
        return 1
    total = prod if isinstance(tree, Product) else sum
    return total(map(_count, parts_of(tree)))


def _part(axes: Axes, steps: Sequence[int], sizes: Mapping[str, int], owner: Owner) -> list[Piece]:
    by_axis = [
        [piece.scaled(step) for piece in _along(tree, axis, sizes, owner)]
        for axis, (tree, step) in enumerate(zip(axes, steps, strict=True))
    ]
    return [_joined(combination) for combination in product(*by_axis)]


def _along(tree: AxisExpr, axis: int, sizes: Mapping[str, int], owner: Owner) -> list[Piece]:
    """Return the pieces of one axis; offsets and strides count along this axis."""
    if isinstance(tree, Named | Fixed):
        group = owner(tree.name) if isinstance(tree, Named) else None
        return [Piece(0, (AxisDim(axis, Dim(axis_size(tree, sizes), 1, group), tree.at),))]
    inside = [_along(part, axis, sizes, owner) for part in parts_of(tree)]
    totals = [axis_size(part, sizes) for part in parts_of(tree)]
    if isinstance(tree, Product):
        steps = [prod(totals[k + 1 :]) for k in range(len(totals))]
        by_factor = [[p.scaled(step) for p in row] for row, step in zip(inside, steps, strict=True)]
        return [_joined(combination) for combination in product(*by_factor)]
    # Parts of one unit each are a concatenation: an axis has no room for larger strides.
    turns = isinstance(tree, Interleaving) and max(totals) > 1
    step = len(totals) if turns else 1
    starts = range(step) if turns else [0, *accumulate(totals)][:-1]
    found = [(p.scaled(step), at) for at, row in zip(starts, inside, strict=True) for p in row]
    return [Piece(piece.offset + start, piece.dims) for piece, start in found]


def _joined(parts: Sequence[Piece]) -> Piece:
    """Return a piece of pieces: offsets add up, dimensions stand side by side, outer ones first."""
    dims = tuple(dim for part in parts for dim in part.dims)
    return Piece(sum(part.offset for part in parts), dims)


def of_pairs(block: Block) -> Block:
    """Return a block of a complex tensor as one of its reals, which have one more axis of 2.

    Exact for inner products too: <x, y> of the reals is the real part of that of the numbers.
    """
    dims = [Dim(d.size, 2 * d.stride, d.group) for d in block.dims]
    return Block(2 * block.offset, tuple(_merged([*dims, Dim(2, 1)])))


def without_groups(block: Block, groups: Container[str | None]) -> Block:
    """Return a block with fixed dimensions where some groups stand.

    They then merge with their neighbours; nothing else about the view changes.
    """
    dims = [Dim(d.size, d.stride) if d.group in groups else d for d in block.dims]
    return Block(block.offset, tuple(_merged(dims)))


def _merged(dims: Sequence[Dim]) -> list[Dim]:
    """Drop fixed dimensions of size 1 and merge fixed neighbours that are contiguous.

    Specs that write one fixed axis with other factors then have equal blocks.
    """
    found: list[Dim] = []
    for dim in dims:
        if dim.group is None and dim.size == 1:
            continue
        last = found[-1] if found else None
        fixed = last is not None and last.group is None and dim.group is None
        if last is not None and fixed and last.stride == dim.size * dim.stride:
            found[-1] = Dim(last.size * dim.size, dim.stride)
        else:
            found.append(dim)
    return found

"""Axis expressions with known sizes to blocks: strided views that cover a tensor exactly.

A product is row-major: factor k of sizes n_1 * ... * n_r has the stride n_(k+1) ... n_r along its
axis. A segment of a sum has the sizes before it as its offset. An expression is therefore as many
pieces as it has ways to choose a segment in each sum, and a tensor the combinations of those of its
axes: every element is in one of them, and permuting a group is reordering one dimension of views.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.language.model import Axes, AxisExpr, Fixed, Named, Sum, TextPlace
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


def pieces(placement: Placement, sizes: Mapping[str, int], owner: Owner) -> list[Piece]:
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
            start += measure(part[placement.split], sizes) * steps[placement.split]
    return found


def measure(tree: AxisExpr, sizes: Mapping[str, int]) -> int:
    """Return the size of an axis expression."""
    if isinstance(tree, Fixed):
        return tree.size or 0
    if isinstance(tree, Named):
        return sizes[tree.name]
    if isinstance(tree, Sum):
        return sum(measure(segment, sizes) for segment in tree.segments)
    return prod(measure(factor, sizes) for factor in tree.factors)


def count(axes: Axes) -> int:
    """Return the number of pieces that axis expressions give, before any of them is made."""
    return prod(_count(axis) for axis in axes)


def _count(tree: AxisExpr) -> int:
    if isinstance(tree, Named | Fixed):
        return 1
    if isinstance(tree, Sum):
        return sum(map(_count, tree.segments))
    return prod(map(_count, tree.factors))


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
        return [Piece(0, (AxisDim(axis, Dim(measure(tree, sizes), 1, group), tree.at),))]
    if isinstance(tree, Sum):
        found, start = [], 0
        for segment in tree.segments:
            inside = _along(segment, axis, sizes, owner)
            found += [Piece(piece.offset + start, piece.dims) for piece in inside]
            start += measure(segment, sizes)
        return found
    totals = [measure(factor, sizes) for factor in tree.factors]
    by_factor = [
        [piece.scaled(prod(totals[k + 1 :])) for piece in _along(factor, axis, sizes, owner)]
        for k, factor in enumerate(tree.factors)
    ]
    return [_joined(combination) for combination in product(*by_factor)]


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


def without(block: Block, groups: Container[str | None]) -> Block:
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

"""Weights without what no function fixes: scales of units, and maps inside attention heads.

A unit may be made larger where it is written and smaller where it is read: `up * s` and `down / s`,
channels before a batch norm, ReLU units. Queries and keys of a head may be multiplied by R and
R^-T, values and the output by R and R^-1 (the "invertible pairs" of Merge-Lock, arXiv 2509.01548).
A copy hides behind such factors from every comparison of weights. So each block is replaced by one
that has none of them:

    D1 W D2       with rows and columns of one length, over the axes of units that are permuted:
                  there is one such matrix for all positive D1, D2 (Sinkhorn and Knopp 1967,
                  of squared entries)
    S^-1/2 V      the orthonormal rows of a head's values, S = V V', where any map is allowed inside
    S^1/2 O'      what reads them: V <- R V and O' <- R^-T O' turn both by one orthogonal map,
                  (R S R')^-1/2 R S^1/2; queries and keys alike
    pairs of one length, where rotary positions allow a complex number for each

A permutation, a rotation of the stream and an orthogonal map inside a head do to the result what
they do to W: matching goes on as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from rebasin_cli.permutation import parent_axis
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.language.model import INTERLEAVED, ORTHOGONAL, PERMUTATION, ROTARY, SIGNED
from rebasin_cli.symmetry.voting_blocks import Place, key_of, load_voting
from rebasin_cli.tensors import TensorInfo, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor, ByTensor

SCALED = (PERMUTATION, SIGNED)  # classes whose units may have a scale of their own
PAIRED = (ROTARY, INTERLEAVED)  # classes whose dims turn in pairs
ROUNDS = 30  # of rows and columns; lengths are then one to 1e-6 in trained networks
RESTING = 10  # rounding steps of a length that changes no more
RANK = 1e-9  # of the largest singular value, below which a direction of a head is not there
MATRIX = 2  # axes longer than one, below which nothing is left without scales
Removal = Callable[[Tensor], None]  # takes something out of a block, in place


def matrices_of(bound: BoundSpec) -> BoundSpec:
    """Return a bound spec in which only matrices with units that move vote.

    Vectors have nothing but their scales.
    """

    def votes(tensor: BoundTensor) -> bool:
        long = sum(size > 1 for size in tensor.shape[tensor.stacked :])
        moves = any(not bound.groups[name].fixed for name in tensor.groups)
        return tensor.votes and long >= MATRIX and moves

    return bound.with_votes(votes)


class GaugeFree(ByTensor):
    """A model whose matrices that vote have no scales of units and no bases of heads.

    bound: as of `matrices_of`. classes: of each group, what its maps are. dtype: of what is made;
    the scales of matrices with more than two axes, and of heads, are found in float64. What is
    taken out of a block is kept, and found once. Raises NotFiniteError.
    """

    def __init__(
        self,
        source: TensorSource,
        bound: BoundSpec,
        classes: Mapping[str, str],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        voting = [tensor for tensor in bound.tensors if tensor.votes]
        super().__init__(source, voting)
        self._groups, self._classes, self._dtype = bound.groups, classes, dtype
        self._bases = dict(_bases_of(voting, self._free_inside))
        self._steps: dict[Place, tuple[Removal, ...]] = {}

    def _remade(self, tensor: BoundTensor) -> Tensor:
        values = load_voting(tensor, self._source, dtype=self._dtype).clone()
        for block in tensor.blocks:
            view, place = block.view(values), (key_of(tensor), block.offset)
            if place in self._steps:
                for step in self._steps[place]:
                    step(view)
            else:
                self._steps[place] = tuple(self._taken_out(view, tensor, block))
        return values

    def info(self, name: str) -> TensorInfo:
        found = super().info(name)
        return replace(found, dtype=self._dtype) if name in self._places else found

    def _taken_out(self, view: Tensor, tensor: BoundTensor, block: Block) -> Iterator[Removal]:
        """Take out of a block what no function fixes, in place, and yield how that was done."""
        for axis, group in self._axes(block):
            for step in self._heads_step(view, axis, (tensor, block), group):
                step(view)
                yield step
        lengths = _lengths(view, [self._lines(block, a, g) for a, g in self._axes(block, SCALED)])
        for step in (partial(_divide, each) for each in lengths):
            step(view)
            yield step

    def _free_inside(self, name: str) -> bool:
        """Return whether any map is allowed inside the parents of a group."""
        return bool(self._groups[name].parents) and self._classes[name] == ORTHOGONAL

    def _heads_step(
        self, view: Tensor, axis: int, site: tuple[BoundTensor, Block], group: BoundGroup
    ) -> Iterator[Removal]:
        """Yield what takes the basis out of an axis of dims inside heads, if there is one."""
        tensor, block = site
        kind, front = self._classes[group.name], _front(block, axis, group)
        if group.parents and kind in PAIRED:
            yield partial(_divide, _pair_lengths(view, front, kind))
        elif self._free_inside(group.name):
            basis = self._bases.get((key_of(tensor), block.offset))
            heads = _heads(view, front).double()
            turn = self._root_of(basis, group) if basis else _whitening(heads)
            yield partial(_turn, front, turn)

    def _root_of(self, basis: tuple[BoundTensor, Block], group: BoundGroup) -> Tensor:
        """Return S^1/2 of each head, S that of the block that its basis is taken from."""
        tensor, block = basis
        front = _front(block, block.groups.index(group.name), group)
        rows = _heads(block.view(load_voting(tensor, self._source)), front)
        sizes, vectors = torch.linalg.eigh(rows @ rows.mT)
        root: Tensor = (vectors * sizes.clamp_min(0).sqrt()[:, None, :]) @ vectors.mT
        return root

    def _axes(
        self, block: Block, classes: Sequence[str] | None = None
    ) -> list[tuple[int, BoundGroup]]:
        """Return the axes of a block that groups own, of some classes or of all."""
        owned = [(axis, self._groups[name]) for axis, name in enumerate(block.groups) if name]
        return [(a, g) for a, g in owned if classes is None or self._classes[g.name] in classes]

    def _lines(self, block: Block, axis: int, group: BoundGroup) -> list[int]:
        """Return the axes along which a unit's entries are, its parents apart."""
        return [k for k in range(len(block.dims)) if k not in _front(block, axis, group)]


def _bases_of(
    tensors: Sequence[BoundTensor], free: Callable[[str], bool]
) -> Iterator[tuple[Place, tuple[BoundTensor, Block]]]:
    """Yield the blocks that take the basis of their heads from another: the second of two.

    free: whether any map is allowed in a group. Where it is in more blocks, each has its own.
    """
    sites: dict[str, list[tuple[BoundTensor, Block]]] = {}
    for tensor in tensors:
        for block in tensor.blocks:
            for name in filter(None, block.groups):
                if free(name):
                    sites.setdefault(name, []).append((tensor, block))
    for found in sites.values():
        if len(found) == 2:
            first, (tensor, block) = found
            yield (key_of(tensor), block.offset), first


def _front(block: Block, axis: int, group: BoundGroup) -> list[int]:
    """Return the axes of a group's parents, as far as a block has them, and its own."""
    there = [p for p in group.parents if p in block.groups]
    return [*(parent_axis(block.groups, axis, parent) for parent in there), axis]


def _divide(lengths: Tensor, view: Tensor) -> None:
    view.div_(lengths.to(view.dtype))


def _turn(front: Sequence[int], matrices: Tensor, view: Tensor) -> None:
    """Multiply the dims of each head by its matrix, in place. matrices: (heads, n, n)."""
    _write(view, front, matrices.to(view.dtype) @ _heads(view, front))


def _lengths(view: Tensor, lines: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return what the units of each axis are to be divided by, so that all have length one.

    lines: for each axis, those along which its units' entries are; what is returned has size one
    there. Found by squares alone, which rows and columns divide in turn.
    """
    axes = [list(line) for line in lines if line]
    if not axes:
        return []
    largest = float(view.abs().max()) or 1.0  # squares of what is small are not lost in float32
    squares = _without_rest((view / largest).square_(), axes)
    sizes = [torch.ones_like(squares.mean(line, keepdim=True)) for line in axes]
    for _ in range(ROUNDS if len(axes) > 1 else 1):
        before = sizes[0]
        for k, line in enumerate(axes):
            sizes[k] = _mean_squares(squares, [s for j, s in enumerate(sizes) if j != k], line)
        if float((sizes[0] / before - 1).abs().max()) < RESTING * torch.finfo(squares.dtype).eps:
            break
    return [size.sqrt() * (1 if k else largest) for k, size in enumerate(sizes)]


def _without_rest(squares: Tensor, axes: Sequence[Sequence[int]]) -> Tensor:
    """Return the means of squares over the axes that no units are on."""
    rest = sorted(set(range(squares.dim())).intersection(*axes))
    return squares.mean(rest, keepdim=True) if rest and len(axes) > 1 else squares


def _mean_squares(squares: Tensor, sizes: Sequence[Tensor], line: Sequence[int]) -> Tensor:
    """Return the means along a line of squares divided by sizes; 1 of what is zero."""
    letters = "abcdefghijkl"[: squares.dim()]
    shapes = ["".join(x for x, n in zip(letters, s.shape, strict=True) if n > 1) for s in sizes]
    kept = "".join(x for k, x in enumerate(letters) if k not in line)
    factors = [size.reciprocal().squeeze() for size in sizes]
    sums = torch.einsum(f"{','.join([letters, *shapes])}->{kept}", squares, *factors)
    count = prod(squares.shape[k] for k in line)
    shape = [1 if k in line else n for k, n in enumerate(squares.shape)]
    means = (sums / count).reshape(shape)
    return torch.where(means > 0, means, 1.0)


def _heads(view: Tensor, front: Sequence[int]) -> Tensor:
    """Return a block as (heads, dims, entries). front: the axes of heads and of their dims."""
    moved = view.movedim(list(front), list(range(len(front))))
    count, size = prod(moved.shape[: len(front) - 1]), moved.shape[len(front) - 1]
    return moved.reshape(count, size, -1)


def _write(view: Tensor, front: Sequence[int], heads: Tensor) -> None:
    """Write what `_heads` returned back into its block."""
    places = list(range(len(front)))
    shape = view.movedim(list(front), places).shape
    view.copy_(heads.reshape(shape).movedim(places, list(front)))


def _whitening(heads: Tensor) -> Tensor:
    """Return (W W')^-1/2 of each head. heads: (count, n, entries)."""
    u, sizes, _ = torch.linalg.svd(heads, full_matrices=False)
    there = sizes > RANK * sizes[:, :1]
    inverse = torch.where(there, 1 / torch.where(there, sizes, 1.0), 0.0)
    found: Tensor = (u * inverse[:, None, :]) @ u.mT
    return found


def _pair_lengths(view: Tensor, front: Sequence[int], kind: str) -> Tensor:
    """Return the lengths of pairs of rows that positions turn together; size one elsewhere."""
    heads = _heads(view, front)
    count, size, entries = heads.shape
    split, across = ((2, size // 2), 1) if kind == ROTARY else ((size // 2, 2), 2)
    pairs = heads.reshape(count, *split, entries)
    length = pairs.square().sum((across, 3), keepdim=True).sqrt()
    length = torch.where(length > 0, length, 1.0).expand(count, *split, 1)
    places = list(range(len(front)))
    shape = [
        *view.movedim(list(front), places).shape[: len(front)],
        *[1] * (view.dim() - len(front)),
    ]
    return length.reshape(shape).movedim(places, list(front))

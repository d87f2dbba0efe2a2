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
from math import prod

import torch
from torch import Tensor

from rebasin_cli.permutation import parent_axis
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.language.model import INTERLEAVED, ORTHOGONAL, PERMUTATION, ROTARY, SIGNED
from rebasin_cli.symmetry.voting_blocks import Place, key_of, load_voting
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor

SCALED = (PERMUTATION, SIGNED)  # classes whose units may have a scale of their own
PAIRED = (ROTARY, INTERLEAVED)  # classes whose dims turn in pairs
ROUNDS = 30  # of rows and columns; lengths are then one to 1e-6 in trained networks
RANK = 1e-9  # of the largest singular value, below which a direction of a head is not there
MATRIX = 2  # axes longer than one, below which nothing is left without scales


def matrices_of(bound: BoundSpec) -> BoundSpec:
    """Return a bound spec in which only matrices with units that move vote.

    Vectors have nothing but their scales.
    """

    def votes(tensor: BoundTensor) -> bool:
        long = sum(size > 1 for size in tensor.shape[tensor.stacked :])
        moves = any(not bound.groups[name].fixed for name in tensor.groups)
        return tensor.votes and long >= MATRIX and moves

    return replace(bound, tensors=tuple(replace(t, votes=votes(t)) for t in bound.tensors))


class GaugeFree(Derived):
    """A model whose matrices that vote have no scales of units and no bases of heads, in float64.

    bound: as of `matrices_of`. classes: of each group, what its maps are. Raises NotFiniteError.
    """

    def __init__(self, source: TensorSource, bound: BoundSpec, classes: Mapping[str, str]) -> None:
        super().__init__(source)
        self._groups, self._classes = bound.groups, classes
        voting = [tensor for tensor in bound.tensors if tensor.votes]
        self._places = {
            name: (tensor, position)
            for tensor in voting
            for position, name in enumerate(tensor.members)
        }
        self._bases = dict(_bases_of(voting, self._free_inside))

    def load(self, name: str) -> Tensor:
        if name not in self._places:
            return super().load(name)
        tensor, position = self._places[name]
        values = load_voting(tensor, self._source).clone()
        for block in tensor.blocks:
            view = block.view(values)
            for axis, group in self._axes(block):
                if group.parents:
                    self._free_axis(view, axis, (tensor, block), group)
            _balance(view, [self._lines(block, a, g) for a, g in self._axes(block, SCALED)])
        return values[position] if tensor.stacked else values

    def _free_inside(self, name: str) -> bool:
        """Return whether any map is allowed inside the parents of a group."""
        return bool(self._groups[name].parents) and self._classes[name] == ORTHOGONAL

    def _free_axis(
        self, view: Tensor, axis: int, site: tuple[BoundTensor, Block], group: BoundGroup
    ) -> None:
        """Take the basis out of an axis of dims inside heads, in place."""
        tensor, block = site
        kind, front = self._classes[group.name], _front(block, axis, group)
        if kind in PAIRED:
            heads = _heads(view, front)
            _write(view, front, _equal_pairs(heads, kind))
        elif self._free_inside(group.name):
            heads = _heads(view, front)
            basis = self._bases.get((key_of(tensor), block.offset))
            found = self._in_basis(heads, basis, group) if basis else _orthonormal_rows(heads)
            _write(view, front, found)

    def _in_basis(
        self, heads: Tensor, basis: tuple[BoundTensor, Block], group: BoundGroup
    ) -> Tensor:
        """Return S^1/2 W of each head, S that of the block that its basis is taken from."""
        tensor, block = basis
        front = _front(block, block.groups.index(group.name), group)
        rows = _heads(block.view(load_voting(tensor, self._source)), front)
        sizes, vectors = torch.linalg.eigh(rows @ rows.mT)
        root = (vectors * sizes.clamp_min(0).sqrt()[:, None, :]) @ vectors.mT
        found: Tensor = root @ heads
        return found

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


def _balance(view: Tensor, lines: Sequence[Sequence[int]]) -> None:
    """Divide the units of each axis by their lengths in place, in turn until all have length one.

    lines: for each axis, those along which its units' entries are.
    """
    axes = [list(line) for line in lines if line]
    for _ in range(ROUNDS if len(axes) > 1 else 1):
        for line in axes:
            length = view.square().mean(line, keepdim=True).sqrt()
            view.div_(torch.where(length > 0, length, 1.0))


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


def _orthonormal_rows(heads: Tensor) -> Tensor:
    """Return (W W')^-1/2 W of each head. heads: (count, n, entries)."""
    u, sizes, vt = torch.linalg.svd(heads, full_matrices=False)
    there = (sizes > RANK * sizes[:, :1]).to(heads.dtype)
    rows: Tensor = (u * there[:, None, :]) @ vt
    return rows


def _equal_pairs(heads: Tensor, kind: str) -> Tensor:
    """Return heads whose pairs of rows, turned together by positions, have one length each."""
    count, size, entries = heads.shape
    split, across = ((2, size // 2), 1) if kind == ROTARY else ((size // 2, 2), 2)
    pairs = heads.reshape(count, *split, entries)
    length = pairs.square().sum((across, 3), keepdim=True).sqrt()
    return (pairs / torch.where(length > 0, length, 1.0)).reshape(heads.shape)

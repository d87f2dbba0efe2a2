"""Tensors with their units permuted: one at a time, as they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor, member_places
from rebasin_cli.tensors.numbers import in_reals
from rebasin_cli.tensors.ranges import Ranged, ranges_of

_WIDEST = 1 << 15  # elements of a row: ranges begin and end inside rows, which are made twice


def take(values: Tensor, tensor: BoundTensor, permutations: Permutations) -> Tensor:
    """Return a permuted copy of a tensor (of a stack: of all its members).

    The tensor itself is returned if no group of it is in `permutations`.
    """
    if not tensor.groups & permutations.keys():
        return values
    return _take_blocks(values.contiguous(), tensor.blocks, permutations, {})


def take_member(
    source: TensorSource, tensor: BoundTensor, position: int, permutations: Permutations
) -> Tensor:
    """Return the member tensor at `position` of the permuted result, reading one tensor only.

    For a stack the member that moves to `position` is read; per-member permutations are
    those of the new position.
    """
    if not tensor.stacked:
        return take(source.load(tensor.members[0]), tensor, permutations)
    owner = str(tensor.blocks[0].dims[0].group)
    origin = int(permutations[owner].index[position]) if owner in permutations else position
    member = source.load(tensor.members[origin])
    if not tensor.groups & permutations.keys():
        return member
    blocks = tuple(Block(block.offset, block.dims[1:]) for block in tensor.blocks)
    return _take_blocks(member.contiguous(), blocks, permutations, {owner: position})


def _take_blocks(
    values: Tensor,
    blocks: Sequence[Block],
    permutations: Permutations,
    pinned: Mapping[str, int],
) -> Tensor:
    source = _movable(values).contiguous()
    result = source.clone()
    for block in blocks:
        if any(name in permutations for name in block.groups):
            moved = gather(block.view(source), block.groups, permutations, pinned=pinned)
            block.view(result).copy_(moved)
    return result.view(values.dtype).reshape(values.shape)


def _movable(values: Tensor) -> Tensor:
    """Return the same bits as blocks see them, in a dtype that can be indexed (float8 cannot)."""
    return values.view(torch.uint8) if values.dtype.itemsize == 1 else in_reals(values)


class Permuted(Derived):
    """A TensorSource whose tensors are permuted as they are loaded, one at a time.

    source: what is not among the members of `tensors`, or does not move, passes through: it may
    be missing, or have another shape.
    """

    def __init__(
        self, source: TensorSource, tensors: Sequence[BoundTensor], permutations: Permutations
    ) -> None:
        super().__init__(source)
        self._permutations = {name: p for name, p in permutations.items() if p.moved}
        moved = (tensor for tensor in tensors if tensor.groups & self._permutations.keys())
        self._places = member_places(moved)

    def load(self, name: str) -> Tensor:
        if name not in self._places:
            return super().load(name)
        return take_member(self._source, *self._places[name], self._permutations)

    def ranged(self, name: str) -> Ranged | None:
        return None if name in self._places else ranges_of(self._source, name)

    def copies(self, name: str) -> int:
        """Return how many of a tensor are held as it is made; 0: it passes through.

        As it was, as it becomes, and reordered along one axis, or along one more.
        """
        if name not in self._places:
            return 0
        blocks = self._places[name][0].blocks
        axes = max(sum(g in self._permutations for g in block.groups) for block in blocks)
        return 2 + min(axes, 2)

    def in_rows(self, name: str) -> bool:
        """Return whether ranges can be made of a tensor, the one before being held whole.

        One block alone is made so, in which no order of units depends on another.
        """
        tensor, _ = self._places.get(name, (None, 0))
        complex_ = self.info(name).dtype.is_complex
        if tensor is None or tensor.stacked or len(tensor.blocks) > 1 or complex_:
            return False
        (block,) = tensor.blocks
        width = block.numel // block.shape[0]
        parents = any(p.parents for g, p in self._permutations.items() if g in block.groups)
        return not parents and width <= _WIDEST and block.in_order

    def ranged_from_whole(self, name: str) -> Ranged | None:
        """Return how ranges are made of the tensor before, held whole; None: they cannot be."""
        if not self.in_rows(name):
            return None
        tensor, dtype = self._places[name][0], self.info(name).dtype
        (block,) = tensor.blocks
        rows = block.view(_movable(self._source.load(name)).contiguous())
        read = partial(_take_range, rows, block.groups, self._permutations)
        return lambda begin, end: read(begin, end).view(dtype)


def _take_range(
    rows: Tensor, groups: Sequence[str | None], permutations: Permutations, begin: int, end: int
) -> Tensor:
    """Return a range of a permuted block: the rows that it touches, cut at both ends."""
    width = rows.numel() // len(rows)
    first, last = begin // width, -(-end // width)
    owner = permutations.get(groups[0] or "")
    taken = rows[first:last] if owner is None else rows.index_select(0, owner.index[first:last])
    moved = gather(taken, (None, *groups[1:]), permutations)
    return moved.reshape(-1)[begin - first * width : end - first * width]

"""How the axes of a tensor are cut into blocks, and which group each block's units belong to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.tensors import Derived, TensorInfo, TensorSource
from rebasin_cli.tensors.numbers import in_reals


@dataclass(frozen=True)
class Dim:
    """One dimension of a block: its size, its step in elements, and the group that owns it.

    group: None where the dimension is fixed.
    """

    size: int
    stride: int
    group: str | None = None


@dataclass(frozen=True)
class Block:
    """A strided view of one tensor with one dimension for each factor.

    A complex tensor counts as the pairs of reals that `in_reals` makes of it. Offset and strides
    are in elements of the contiguous (row-major) tensor. Fixed dimensions of size 1 are left out
    and neighbouring fixed dimensions are merged, so that `dims` holds what matters: which groups
    meet here. A dimension of a group stays, whatever its size.
    """

    offset: int
    dims: tuple[Dim, ...]

    @property
    def groups(self) -> tuple[str | None, ...]:
        return tuple(dim.group for dim in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim.size for dim in self.dims)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def in_order(self) -> bool:
        """Whether its elements follow one another in the tensor, without others in between."""
        steps = (prod(self.shape[k + 1 :]) for k in range(len(self.dims)))
        return all(dim.stride == step for dim, step in zip(self.dims, steps, strict=True))

    def view(self, tensor: Tensor) -> Tensor:
        """Return this block of a contiguous tensor, without copying."""
        strides = tuple(dim.stride for dim in self.dims)
        start = tensor.storage_offset() + self.offset
        return tensor.as_strided(self.shape, strides, start)


@dataclass(frozen=True)
class Window:
    """Where a tensor of a file lies in a contiguous tensor of a model: a strided view of it.

    source: the name in the model. shape, strides, offset: in elements, as of `as_strided`.
    """

    source: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, info: TensorInfo) -> Window:
        """Return the window that is all of a tensor."""
        steps = tuple(prod(info.shape[axis + 1 :]) for axis in range(len(info.shape)))
        return cls(info.name, info.shape, steps)


@dataclass(frozen=True)
class BoundTensor:
    """A tensor cut into blocks, or several tensors of one shape stacked along a new axis 0.

    members: one tensor name; for an axis of names (`experts.[e].weight`) all of them, in order.
    stacked: True for an axis of names; then axis 0 of `shape` counts the members, is owned by
    one group, and is the first dimension of every block. shape: that of the reals.
    blocks: cover the tensor exactly, without overlap. votes: False for buffers and integers.
    """

    members: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    votes: bool

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(name for block in self.blocks for name in block.groups if name)

    def load(self, source: TensorSource) -> Tensor:
        """Return the reals of this shape, contiguous; a stack is assembled from its members."""
        if self.stacked:
            return torch.stack([in_reals(source.load(name)) for name in self.members])
        return in_reals(source.load(self.members[0])).contiguous()


def member_places(tensors: Iterable[BoundTensor]) -> dict[str, tuple[BoundTensor, int]]:
    """Return the bound tensor that each name belongs to, and its place among the members."""
    return {
        name: (tensor, position)
        for tensor in tensors
        for position, name in enumerate(tensor.members)
    }


class ByTensor(Derived, ABC):
    """A TensorSource in which some bound tensors are made anew as they are loaded.

    Subclasses say how, in `_remade`.
    """

    def __init__(self, source: TensorSource, tensors: Iterable[BoundTensor]) -> None:
        super().__init__(source)
        self._places = member_places(tensors)

    def load(self, name: str) -> Tensor:
        if name not in self._places:
            return super().load(name)
        tensor, position = self._places[name]
        whole = self._remade(tensor)
        return whole[position] if tensor.stacked else whole

    @abstractmethod
    def _remade(self, tensor: BoundTensor) -> Tensor:
        """Return the new values of a tensor, contiguous, of its bound shape; a stack as one."""

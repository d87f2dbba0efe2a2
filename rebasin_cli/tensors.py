"""The nouns for tensors: what is known of one, where it comes from, how it is cut into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and dtype of a tensor, known without reading its values."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def reals(self) -> int:
        """The count of numbers, a complex one as two."""
        return self.numel * (2 if self.dtype.is_complex else 1)

    @property
    def floating(self) -> bool:
        """True for floating dtypes, complex ones too: what is averaged, and what votes."""
        return self.dtype.is_floating_point or self.dtype.is_complex


class TensorSource(Protocol):
    """Named tensors on demand. A checkpoint is one; so is `InMemory` around a state dict."""

    def names(self) -> Sequence[str]:
        """Return the tensor names, in the order in which the source stores them."""

    def info(self, name: str) -> TensorInfo:
        """Return what is known of a tensor without reading it."""

    def load(self, name: str) -> Tensor:
        """Return the tensor in CPU memory. The caller must not write to it."""


class InMemory:
    """A state dict as a TensorSource; the tensors are shared, not copied."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def names(self) -> Sequence[str]:
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensors[name]
        return TensorInfo(name, tuple(tensor.shape), tensor.dtype)

    def load(self, name: str) -> Tensor:
        return self._tensors[name]


class Derived:
    """A TensorSource with the names and infos of another, from whose tensors it makes its own.

    Passes everything through: subclasses have a `load` of their own.
    """

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def names(self) -> Sequence[str]:
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        return self._source.info(name)

    def load(self, name: str) -> Tensor:
        return self._source.load(name)


def infos(source: TensorSource) -> dict[str, TensorInfo]:
    """Return what is known of every tensor of a source, by name, in the source's order."""
    return {name: source.info(name) for name in source.names()}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without that of its package.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def in_reals(tensor: Tensor) -> Tensor:
    """Return a complex tensor as its real numbers, one more axis of 2; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def of_reals(reals: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what `in_reals` was given, if that was of this dtype; complex ones as wide as now."""
    return torch.view_as_complex(reals.contiguous()) if dtype.is_complex else reals


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on its device or, as Apple's GPUs know none, on the CPU."""
    return (tensor.cpu() if tensor.is_mps else tensor).to(torch.float64)


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

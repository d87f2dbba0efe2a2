"""What is known of a tensor, and where tensors come from: vocabulary of all that handles them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import is_floating

# Buffers of norms: floating, moved like parameters, and none themselves.
RUNNING_STATISTICS = ("running_mean", "running_var")


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
        return is_floating(self.dtype)


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

"""Tensors read a range at a time: what is made of them element by element needs no memory of one.

A range stays in a core's cache from where it is read to where it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rebasin_cli.tensors import Derived, TensorSource

Ranged = Callable[[int, int], Tensor]
"""Elements of one tensor, seen flat, from the first number up to the second: flat, and nobody
writes to them."""


IN_CACHE = 1 << 16  # elements that are computed at once, and stay in a core's cache


@runtime_checkable
class InRanges(Protocol):
    """A TensorSource that need not load tensors whole."""

    def ranged(self, name: str) -> Ranged | None:
        """Return how ranges of a tensor are read; None: it can only be had whole."""


def ranges_of(source: TensorSource, name: str) -> Ranged | None:
    """Return how ranges of a tensor are read; None: it can only be had whole."""
    return source.ranged(name) if isinstance(source, InRanges) else None


def ranges_in_memory(tensor: Tensor) -> Ranged:
    """Return how ranges are read of a tensor in memory."""
    flat = tensor.reshape(-1)
    return lambda begin, end: flat[begin:end]


def join_ranges(read: Ranged, shape: tuple[int, ...]) -> Tensor:
    """Return a whole tensor that is made range by range."""
    size = prod(shape)
    first = read(0, min(size, IN_CACHE))
    whole = torch.empty(size, dtype=first.dtype)
    whole[: len(first)] = first
    for begin in range(len(first), size, IN_CACHE):
        end = min(begin + IN_CACHE, size)
        whole[begin:end] = read(begin, end)
    return whole.reshape(shape)


class Kept(Derived):
    """A TensorSource that holds each of its tensors from when it is first asked for."""

    def __init__(self, source: TensorSource) -> None:
        super().__init__(source)
        self._tensors: dict[str, Tensor] = {}

    def load(self, name: str) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = super().load(name)
        return self._tensors[name]

    def ranged(self, name: str) -> Ranged:
        return ranges_in_memory(self.load(name))

"""Tensors read a range at a time: what is made of them element by element needs no memory of one.

A range stays in a core's cache from where it is read to where it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from rebasin_cli.tensors import Derived, TensorSource

Ranged = Callable[[int, int], Tensor]
"""Elements of one tensor, seen flat, from the first number up to the second: flat, and nobody
writes to them."""


@runtime_checkable
class InRanges(Protocol):
    """A TensorSource that need not load tensors whole."""

    def ranged(self, name: str) -> Ranged | None:
        """Return how ranges of a tensor are read; None: it can only be had whole."""


def ranges_of(source: TensorSource, name: str) -> Ranged | None:
    """Return how ranges of a tensor are read; None: it can only be had whole."""
    return source.ranged(name) if isinstance(source, InRanges) else None


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
        flat = self.load(name).reshape(-1)
        return lambda begin, end: flat[begin:end]

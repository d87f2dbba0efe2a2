"""A spec checked against a checkpoint's headers: groups have sizes, tensors have blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rebasin_cli.spec.model import Spec
from rebasin_cli.tensors import BoundTensor


@dataclass(frozen=True)
class BoundGroup:
    """A group with its size and the groups it has one permutation for each index of.

    shape: (*parent sizes, size), the shape of its permutation's index. parents: outermost first.
    """

    name: str
    shape: tuple[int, ...]
    parents: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.shape[-1]

    @property
    def root(self) -> str:
        """The outermost parent, or the group itself: what it is matched together with."""
        return self.parents[0] if self.parents else self.name


@dataclass(frozen=True)
class BoundSpec:
    """What a spec says about one set of tensor names and shapes.

    groups: parents before their children, otherwise in order of first use.
    tensors: those the spec names, in checkpoint order (a stack stands at its first member).
    untouched: the names it does not mention, in checkpoint order; they pass through unchanged.
    buffers: names, mentioned or not, that are permuted but do not vote.
    """

    spec: Spec
    groups: Mapping[str, BoundGroup]
    tensors: tuple[BoundTensor, ...]
    untouched: tuple[str, ...]
    buffers: frozenset[str]

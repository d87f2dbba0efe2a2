"""A spec checked against a checkpoint's headers: groups have sizes, tensors have blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from rebasin_cli.permutation import Permutation, identity, random_permutation
from rebasin_cli.spec.language.model import PERMUTATION, Spec
from rebasin_cli.tensors.blocks import BoundTensor


@dataclass(frozen=True)
class BoundGroup:
    """A group with its size and the groups it has one permutation for each index of.

    shape: (*parent sizes, size), the shape of its permutation's index. parents: outermost first.
    fixed: its permutation is always the identity. maps: what may be done to it besides, one of
    CLASSES.
    """

    name: str
    shape: tuple[int, ...]
    parents: tuple[str, ...] = ()
    fixed: bool = False
    maps: str = PERMUTATION

    @property
    def size(self) -> int:
        return self.shape[-1]

    @property
    def root(self) -> str:
        """The outermost parent, or the group itself: what it is matched together with."""
        return self.parents[0] if self.parents else self.name


def draw_permutations(
    groups: Iterable[BoundGroup], generator: torch.Generator
) -> dict[str, Permutation]:
    """Return a random permutation of each group, the identity of those that are fixed."""
    return {
        group.name: identity(group.shape, group.parents)
        if group.fixed
        else random_permutation(group.shape, group.parents, generator)
        for group in groups
    }


@dataclass(frozen=True)
class BoundNorm:
    """A norm that can be folded into the weights that read it.

    gain, readers: names of tensors; bias: of the norm, None if it has none. tied: whether the
    reader is a tensor that is written to as well, as where an embedding is the output head.
    offset: what is added to the gain; None: config.json has to say, and there is none.
    writers: of a scale, the tensors that write what it scales. See `Norm`.
    """

    gain: str
    bias: str | None
    kind: str
    offset: int | None
    readers: tuple[str, ...]
    tied: bool = False
    writers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoundSpec:
    """What a spec says about one set of tensor names and shapes.

    groups: parents before their children, otherwise in order of first use.
    tensors: those the spec names, in checkpoint order (a stack stands at its first member).
    untouched: the names it does not mention, in checkpoint order; they pass through unchanged.
    buffers: names, mentioned or not, that are permuted but do not vote.
    transposed: names of tensors stored as (in, out). norms: those that fold.
    """

    spec: Spec
    groups: Mapping[str, BoundGroup]
    tensors: tuple[BoundTensor, ...]
    untouched: tuple[str, ...]
    buffers: frozenset[str]
    transposed: frozenset[str] = frozenset()
    norms: tuple[BoundNorm, ...] = ()

    def with_votes(self, votes: Callable[[BoundTensor], bool]) -> BoundSpec:
        """Return the spec with a vote for those tensors that have one."""
        return replace(self, tensors=tuple(replace(t, votes=votes(t)) for t in self.tensors))

    @property
    def idle(self) -> frozenset[str]:
        """The groups that are fixed and the parents of none: no different from fixed axes."""
        parents = {parent for group in self.groups.values() for parent in group.parents}
        return frozenset(g.name for g in self.groups.values() if g.fixed) - parents

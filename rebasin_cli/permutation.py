"""Permutations of units, gather convention: unit i of the result is unit `perm[i]` of the original.

A group that has its own permutation for every index of a parent group (attention dims inside
each head) stores them as one array: unit (h, i) of the result is unit (P[h], p[h, i]) of the
original, so its rows are indexed by the parent's position in the *result*.
Permuting moves bits and never computes: compare results with `==`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.errors import PermutationError


@dataclass(frozen=True, eq=False)
class Permutation:
    """A bijection of 0..n-1, or one for every combination of indices of its parent groups.

    index: int64 (*parent sizes, n); every row along the last axis is a bijection.
    parents: names of the parent groups, outermost first.
    Raises PermutationError if a row is not a bijection.
    """

    index: Tensor
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.index.dtype != torch.int64 or self.index.dim() != len(self.parents) + 1:
            raise PermutationError(
                f"a permutation of {len(self.parents)} parents is not an "
                f"{self.index.dtype} array of shape {tuple(self.index.shape)}"
            )
        units = torch.arange(self.index.shape[-1], device=self.index.device)
        if not torch.equal(self.index.sort(-1).values, units.expand_as(self.index)):
            raise PermutationError("an index occurs twice or lies outside the group")

    @property
    def moved(self) -> int:
        """The number of units that change place."""
        units = torch.arange(self.index.shape[-1], device=self.index.device)
        return int((self.index != units).sum())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Permutation)
            and self.parents == other.parents
            and torch.equal(self.index, other.index)
        )

    def __hash__(self) -> int:
        return hash((self.parents, tuple(self.index.flatten().tolist())))


Permutations = Mapping[str, Permutation]


def identity(shape: Sequence[int], parents: tuple[str, ...] = ()) -> Permutation:
    """Return the permutation that moves nothing; shape: (*parent sizes, n)."""
    return Permutation(torch.arange(shape[-1]).expand(*shape).clone(), parents)


def random_permutation(
    shape: Sequence[int], parents: tuple[str, ...], generator: torch.Generator
) -> Permutation:
    """Return a uniformly random permutation; shape: (*parent sizes, n)."""
    return Permutation(torch.rand(*shape, generator=generator).argsort(-1), parents)


def inverse(permutations: Permutations) -> dict[str, Permutation]:
    """Return the permutations that undo these. Parents must be among them."""
    inverses: dict[str, Permutation] = {}
    for name in _parents_first(permutations):
        forward = permutations[name]
        rows = gather(forward.index.argsort(-1), (*forward.parents, None), inverses)
        inverses[name] = replace(forward, index=rows)
    return {name: inverses[name] for name in permutations}


def compose(first: Permutations, second: Permutations) -> dict[str, Permutation]:
    """Return the permutations that act like `first`, then `second`, on the same groups."""
    return {
        name: replace(
            permutation,
            index=gather(permutation.index, (*permutation.parents, name), second),
        )
        for name, permutation in first.items()
    }


def gather(
    values: Tensor,
    groups: Sequence[str | None],
    permutations: Permutations,
    *,
    pinned: Mapping[str, int] | None = None,
) -> Tensor:
    """Return `values` with every dimension permuted by the group that owns it.

    groups: one entry a dimension. A group without an entry in `permutations` stays.
    A parent is the dimension before its child that it owns, or the only one it owns.
    pinned: parents that have no dimension here, with the position they are fixed at.
    """
    owners = {name for name in groups if name is not None and name in permutations}
    for name in sorted(owners, key=lambda g: (len(permutations[g].parents), g)):
        for axis, owner in enumerate(groups):
            if owner == name:
                values = _gather_axis(values, axis, groups, permutations[name], pinned or {})
    return values


def _gather_axis(
    values: Tensor,
    axis: int,
    groups: Sequence[str | None],
    permutation: Permutation,
    pinned: Mapping[str, int],
) -> Tensor:
    """Permute one dimension whose parents' dimensions have been permuted already."""
    index, axes = permutation.index.to(values.device), []
    for parent in permutation.parents:
        if parent in groups:
            axes.append(parent_axis(groups, axis, parent))
        else:
            index = index.select(len(axes), pinned[parent])
    if not axes:
        return values.index_select(axis, index)
    front = list(range(len(axes) + 1))
    moved = values.movedim([*axes, axis], front)
    rows = moved.reshape(index.numel(), -1)
    start = torch.arange(index.numel() // index.shape[-1], device=index.device)
    flat = index.reshape(-1, index.shape[-1]) + (start * index.shape[-1])[:, None]
    taken = rows.index_select(0, flat.reshape(-1)).reshape(moved.shape)
    return taken.movedim(front, [*axes, axis])


def parent_axis(groups: Sequence[str | None], axis: int, parent: str) -> int:
    """Return the dimension of `parent` that a child on `axis` belongs to.

    It is the last one before the child, or the only one.
    """
    before = [k for k, name in enumerate(groups[:axis]) if name == parent]
    return before[-1] if before else groups.index(parent)


def _parents_first(permutations: Permutations) -> list[str]:
    return sorted(permutations, key=lambda name: len(permutations[name].parents))

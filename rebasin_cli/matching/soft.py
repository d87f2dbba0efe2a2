"""Models under soft permutations: points of the polytope whose vertices are permutations.

A chain's soft permutation P is a doubly stochastic (N, N) matrix, rows in the common frame,
columns in the model's. Models are never multiplied by one: a step towards a vertex replaces
every array by a mixture of arrays that are already there and of arrays reordered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.loaded import Loaded
from rebasin_cli.matching.sites import Chain, Site, reordered

Groups = tuple[str, ...]
Vertex = Mapping[Groups, Tensor]  # the order of each chain
# On the segment to a vertex an array is the sum over u of (1 - t)^(k - u) t^u mixture[u], with k
# the chains that are permuted in it, and u of them taken to the vertex.
Mixture = list[Tensor]


@dataclass(frozen=True)
class Field:
    """Arrays of all models, (*chain sizes, m), in which the same chains meet."""

    chains: tuple[Chain, ...]
    arrays: tuple[Tensor, ...]

    @property
    def everywhere(self) -> int:
        """The set of all its chains; a set is written in the bits of a number."""
        return (1 << len(self.chains)) - 1


def fields(
    models: Sequence[Loaded],
    sites: Sequence[Site],
    relaxed: frozenset[str],
    still: Sequence[Vertex],
) -> list[Field]:
    """Return the arrays of the models, those in which one chain is alone joined into one.

    relaxed: roots of the families with soft permutations; still: the orders of all others.
    """
    alone: dict[Groups, tuple[Chain, list[list[Tensor]]]] = {}
    found = list[Field]()
    for site in sites:
        keep = [k for k, chain in enumerate(site.chains) if chain.groups[0] in relaxed]
        chains = tuple(site.chains[k] for k in keep)
        arrays = [
            _settled(site, model, keep, orders) for model, orders in zip(models, still, strict=True)
        ]
        if len(chains) == 1:
            alone.setdefault(chains[0].groups, (chains[0], []))[1].append(arrays)
        elif chains:
            found.append(Field(chains, tuple(arrays)))
    joined = (
        Field((chain,), tuple(torch.cat(parts, 1) for parts in zip(*rows, strict=True)))
        for chain, rows in alone.values()
    )
    return [*found, *joined]


def _settled(site: Site, model: Loaded, keep: Sequence[int], orders: Vertex) -> Tensor:
    """Return a model's array with the chains that stay as they are folded into the last axis."""
    here = [
        None if k in keep else orders[chain.groups].to(model.device)
        for k, chain in enumerate(site.chains)
    ]
    array = reordered(site.array(model), here)
    rest = [k for k in range(array.dim()) if k not in keep]
    return array.permute(*keep, *rest).reshape(*(site.chains[k].size for k in keep), -1)


@dataclass
class Softened:
    """One model of a field with some chains permuted softly, and others not at all.

    parts: array by the set of chains that are permuted in it.
    """

    field: Field
    parts: dict[int, Tensor]

    @property
    def whole(self) -> Tensor:
        """The model in the common frame."""
        return self.parts[self.field.everywhere]

    def but(self, position: int) -> Tensor:
        """Return the model with all chains permuted but one."""
        return self.parts[self.field.everywhere ^ (1 << position)]

    def towards(self, vertex: Vertex) -> dict[int, Mixture]:
        """Return each part on the segment to a vertex."""
        orders = [vertex[chain.groups] for chain in self.field.chains]
        moved: dict[tuple[int, int], Tensor] = {(s, 0): part for s, part in self.parts.items()}
        return {
            chosen: [_mixed(moved, orders, chosen, count) for count in range(size + 1)]
            for chosen in sorted(self.parts)
            for size in (chosen.bit_count(),)
        }

    def step(self, segment: Mapping[int, Mixture], length: float) -> None:
        """Go along a segment."""
        for chosen, mixture in segment.items():
            if len(mixture) > 1:
                self.parts[chosen] = _blended(mixture, length)


def softened(
    field: Field, which: int, start: Vertex | None, fixed: frozenset[str] = frozenset()
) -> Softened:
    """Return a model under a start: the order of each chain, None for the middle of all orders.

    fixed: groups that stay, so that the middle does not mix their units.
    """
    parts = {0: field.arrays[which]}
    for chosen in range(1, field.everywhere + 1):
        position = chosen.bit_length() - 1
        before = parts[chosen ^ (1 << position)]
        if start is None:
            parts[chosen] = middle(before, position, field.chains[position], fixed)
        else:
            order = start[field.chains[position].groups]
            parts[chosen] = before.index_select(position, order)
    return Softened(field, parts)


def middle(array: Tensor, position: int, chain: Chain, fixed: frozenset[str]) -> Tensor:
    """Return the mean of an array over all orders of a chain along one of its dimensions."""
    sizes = array.shape
    units = array.reshape(*sizes[:position], *chain.shape, *sizes[position + 1 :])
    moving = [position + k for k, name in enumerate(chain.groups) if name not in fixed]
    if not moving:
        return array
    return units.mean(moving, keepdim=True).expand(units.shape).reshape(sizes)


def _blended(mixture: Mixture, length: float) -> Tensor:
    """Return the point of a segment."""
    last = len(mixture) - 1
    value = mixture[0] * (1 - length) ** last
    for count, array in enumerate(mixture[1:], 1):
        value.add_(array, alpha=(1 - length) ** (last - count) * length**count)
    return value


def _mixed(
    moved: dict[tuple[int, int], Tensor], orders: Sequence[Tensor], chosen: int, count: int
) -> Tensor:
    """Return the sum over all ways to take `count` of the chosen chains to the vertex."""
    subsets = (s for s in range(chosen + 1) if s & chosen == s and s.bit_count() == count)
    first, *others = (_reordered(moved, orders, chosen ^ hard, hard) for hard in subsets)
    return sum(others, first)


def _reordered(
    moved: dict[tuple[int, int], Tensor], orders: Sequence[Tensor], soft: int, hard: int
) -> Tensor:
    """Return the part in which `soft` is permuted, with the chains in `hard` at the vertex."""
    if (soft, hard) not in moved:
        last = hard.bit_length() - 1
        before = _reordered(moved, orders, soft, hard ^ (1 << last))
        moved[soft, hard] = before.index_select(last, orders[last])
    return moved[soft, hard]

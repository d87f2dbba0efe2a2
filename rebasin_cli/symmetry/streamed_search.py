"""The search for maps with both models on disk: a tensor of each in memory, or those of a family.

The other model is never moved: its tensors are read where a family is visited, and moved by the
maps so far. What a stream sees, a sum over all layers, is summed over its tensors as they are
without its own rotation Q, which all of them have in common:

    sum over W of  W_A' (W_B Q')  =  (sum over W of  W_A' W_B) Q'

Products of models with 16 bits are taken in float32, others in float64; they are summed in float64,
and the maps are solved for in float64. What a block is worth after a sweep is known from the visit
to the last family that it is in, so that the objective takes no pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from typing import TypeVar

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Site
from rebasin_cli.matching.problem.group_families import GroupFamily, sites_of
from rebasin_cli.permutation import gather
from rebasin_cli.symmetry.family_solution import LinearTerm, similarities_of
from rebasin_cli.symmetry.map_sweeps import MapSearch
from rebasin_cli.symmetry.maps import NO_MAPS, GroupMaps, carry, map_axes
from rebasin_cli.symmetry.voting_blocks import (
    TINY,
    Place,
    key_of,
    load_voting,
    place_of,
    product_dtype,
    tensors_at,
    terms_of,
    weigh,
)
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor

R = TypeVar("R")
BothBlocks = tuple[Tensor, Tensor]  # the values of both models, the reference first


@dataclass(frozen=True)
class Agreement:
    """What blocks add to the objective, and to the inner product of both models."""

    objective: float = 0.0
    inner: float = 0.0

    def __add__(self, more: Agreement) -> Agreement:
        return Agreement(self.objective + more.objective, self.inner + more.inner)


@dataclass
class StreamedSearch(MapSearch):
    """A search that reads tensors when it needs them; both models are read twice a sweep.

    weights: of blocks. owners: of each block the family that is visited last in a sweep of those
    that it is in. agreed: of the blocks that a family owns, as of its last visit. device: where
    the maps are, and where tensors are brought to. dtype: of products; None: as above.
    """

    reference: TensorSource
    other: TensorSource
    device: str = field(default="cpu", kw_only=True)
    dtype: torch.dtype | None = field(default=None, kw_only=True)
    weights: Mapping[Place, float] = field(init=False)
    owners: Mapping[Place, str] = field(init=False)
    agreed: dict[str, Agreement] = field(init=False, default_factory=dict)
    _dtype: torch.dtype = field(init=False, default=torch.float64)
    _unmoved: float = field(init=False, default=0.0)
    _length: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        models = self.reference, self.other
        self._dtype = self.dtype or product_dtype(tensors_at(sites_of(self.families)), models)
        self.owners = {
            place_of(site): root for root in self.ordered for site in self.families[root].sites
        }
        unmoved = list(self._found_at(sites_of(self.families), NO_MAPS, _lengths_and_inner))
        self.weights = weigh({place: (a, b) for place, (a, b, _) in unmoved})
        squares = [sum(found[k] ** 2 for _, found in unmoved) for k in (0, 1)]
        self._length = max(sqrt(squares[0]) * sqrt(squares[1]), TINY)
        self._unmoved = sum(inner for _, (_, _, inner) in unmoved)

    def objective(self) -> float:
        return sum(worth.objective for worth in self.agreed.values())

    def cosine(self) -> float:
        inner = sum(worth.inner for worth in self.agreed.values()) if self.agreed else self._unmoved
        return inner / self._length

    def _found_at(
        self, sites: Sequence[Site], maps: GroupMaps, look: Callable[[Site, BothBlocks], R]
    ) -> Iterator[tuple[Place, R]]:
        """Yield what `look` finds in each block, the other model moved.

        A tensor of each model is in memory, and no longer when the next is read.
        """
        for tensor in tensors_at(sites):
            here = [site for site in sites if key_of(site.tensor) == key_of(tensor)]
            yield from self._found_in(tensor, here, maps, look)

    def _found_in(
        self,
        tensor: BoundTensor,
        sites: Sequence[Site],
        maps: GroupMaps,
        look: Callable[[Site, BothBlocks], R],
    ) -> list[tuple[Place, R]]:
        a, b = (
            load_voting(tensor, model, dtype=self._dtype, device=self.device)
            for model in (self.reference, self.other)
        )
        b = carry(b, tensor, maps, dtype=self._dtype)
        return [(place_of(s), look(s, (s.block.view(a), s.block.view(b)))) for s in sites]

    def _measured(self, sites: Sequence[Site]) -> dict[Place, Agreement]:
        """Return what blocks are worth as the models are now, by reading them."""
        found = self._found_at(sites, self.maps, lambda _, pair: _inner(*pair))
        return {place: Agreement(self.weights[place] * inner, inner) for place, inner in found}

    def visit(self, family: GroupFamily, *, anchored: bool = False) -> None:
        sites = [s for s in family.sites if not (anchored and len(s.chains) > 1)]
        if not sites:
            return
        flat = self.solver.flat(chain.groups for chain in family.chains())
        step, worth = (self._units if flat else self._nest)(family, sites)
        if family.meets_itself:
            self._try(family, step)
        else:
            self.agreed[family.root] = worth
            self.maps = self.maps.then(step)

    def _units(self, family: GroupFamily, sites: Sequence[Site]) -> tuple[GroupMaps, Agreement]:
        """Return the best maps of a family without nested groups, and what its blocks add up to."""
        found = self._summed(family, sites)
        step = self.solver.units(family.root, {chain: each[0] for chain, each in found.items()})
        worth = (_worth_of_units(step, chain, each) for chain, each in found.items())
        return step, sum(worth, Agreement())

    def _summed(self, family: GroupFamily, sites: Sequence[Site]) -> dict[tuple[str, ...], Tensor]:
        """Return similarities (k, n, n) of a family whose units are flat, by chain, in float64.

        The first are those to solve. Where the family owns blocks the second and the third are what
        these add to the objective and to the inner product of the models.
        """
        owns = any(self.owners[place_of(site)] == family.root for site in sites)
        size = self.bound.groups[family.root].size
        shape, device = (3 if owns else 1, size, size), self.device
        found = {
            chain.groups: torch.zeros(shape, dtype=torch.float64, device=device)
            for chain in family.chains()
        }
        turn = None if family.meets_itself else self.maps.linear.get(family.root)
        rest = {n: m for n, m in self.maps.linear.items() if turn is None or n != family.root}
        maps = replace(self.maps, linear=rest)
        for place, products in self._found_at(sites, maps, partial(self._products, family)):
            for chain, product in products.items():
                found[chain][0].add_(product, alpha=self.weights[place])
                if owns and self.owners[place] == family.root:
                    found[chain][1].add_(product, alpha=self.weights[place])
                    found[chain][2].add_(product)
        return found if turn is None else {c: each @ turn.matrix.T for c, each in found.items()}

    def _terms(self, family: GroupFamily, site: Site, pair: BothBlocks) -> list[LinearTerm]:
        return list(terms_of(site, family, self.bound.groups, pair))

    def _products(
        self, family: GroupFamily, site: Site, pair: BothBlocks
    ) -> dict[tuple[str, ...], Tensor]:
        return similarities_of(self._terms(family, site, pair))

    def _nest(self, family: GroupFamily, sites: Sequence[Site]) -> tuple[GroupMaps, Agreement]:
        """Return the same of a family with groups inside its units, all its blocks in memory."""
        terms, mine = list[LinearTerm](), list[tuple[LinearTerm, float]]()
        for place, found in self._found_at(sites, self.maps, partial(self._terms, family)):
            weight = self.weights[place]
            terms += [replace(term, reference=term.reference * weight) for term in found]
            if self.owners[place] == family.root:
                mine += [(term, weight) for term in found]
        step = self.solver.solve(family.root, terms)
        worth = Agreement()
        for term, weight in mine:
            inner = _inner(term.reference, _move_term(term, step))
            worth += Agreement(weight * inner, inner)
        return step, worth

    def _try(self, family: GroupFamily, step: GroupMaps) -> None:
        """Move the other model where that raises the objective; see `HeldSearch`."""
        before, maps = self._measured(family.sites), self.maps
        self.maps = self.maps.then(step)
        after = self._measured(family.sites)
        if sum(w.objective for w in after.values()) <= sum(w.objective for w in before.values()):
            after, self.maps = before, maps
        owned = (w for place, w in after.items() if self.owners[place] == family.root)
        self.agreed[family.root] = sum(owned, Agreement())


def _lengths_and_inner(_: Site, pair: BothBlocks) -> tuple[float, float, float]:
    a, b = pair
    return sqrt(_inner(a, a)), sqrt(_inner(b, b)), _inner(a, b)


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())  # in pairs, and no less exact than its terms


def _worth_of_units(step: GroupMaps, chain: Sequence[str], found: Tensor) -> Agreement:
    if len(found) == 1:
        return Agreement()
    if chain[0] in step.linear:
        values = (found[1:] * step.linear[chain[0]].matrix).sum((1, 2))
    else:
        index = step.permutations[chain[0]].index
        pairs = found[1:, torch.arange(len(index), device=index.device), index]
        signs = [step.linear[name].matrix.flatten() for name in chain[1:]]
        values = (pairs * signs[0] if signs else pairs).sum(1)
    return Agreement(float(values[0]), float(values[1]))


def _move_term(term: LinearTerm, step: GroupMaps) -> Tensor:
    owners = (*term.groups, None)
    values = gather(term.other, owners, step.permutations)
    found: Tensor = map_axes(values, owners, step.linear)
    return found

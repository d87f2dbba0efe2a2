"""Similarities kept from visit to visit: only what moved since is computed again.

A site's share of a similarity is a product over all but one of its chains. When another chain
moved in a few units only, the difference is a product over those units alone. For one site with
the chain itself of n units, another of k, and the rest m, A and B being (n, k, m):

    S[i, j]  = sum over c, m of A[i, c, m] B[j, q[c], m]
    S' - S   = sum over c in U, m of A[i, c, m] (B[j, q'[c], m] - B[j, q[c], m])

with U the units c for which q'[c] differs from q[c]: n^2 |U| m multiplications instead of
n^2 k m. Both are exact but for rounding. Ours: in a descent most visits after the first find
that the neighbours have moved a few units, or none.

The chain's own order is not in S, which holds all pairs: a similarity outlives every move of its
own family, and is stale only where a neighbour moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.joint import Votes
from rebasin_cli.matching.problem.axis_chains import Site, as_rows, chain_orders, reorder
from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.shared_work import add_product
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.permutation import Permutations
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors.device_memory import with_room, zeros_with_room

ANEW = 0.7  # of all products: with more to do, sums are made anew, which also sheds rounding
UPDATES = 50  # differences added to a float32 sum before it is made anew

# Units of a chain with groups inside groups that are compared at once: float32 takes 256 MB. A
# plain group of any size has to have its (n, n) similarity; only of a nest there is another way,
# pair of parents by pair of parents.
LARGEST = 8192

Orders = Mapping[tuple[str, ...], Tensor]


@dataclass(frozen=True)
class FamilySimilarities:
    """Similarities of a family by chain, the orders of all chains they hold for, their age.

    updates: how many differences were added to the sums since they were made.
    """

    values: Mapping[tuple[str, ...], Tensor]
    orders: Orders
    updates: int = 0


class SimilarityCache:
    """The similarities of a pair's families, brought up to date when asked for.

    limit: bytes of similarities to keep; those of the first families that fit are kept, others
    made at every visit. Which ones is settled beforehand, so that neither they nor their rounding
    depend on threads: families may be asked for from several, one thread a family.
    """

    def __init__(self, pair: Pair, families: Mapping[str, GroupFamily], limit: int) -> None:
        self._pair, self.families, self.limit = pair, families, limit
        self._kept = kept_words(families, limit // pair.dtype.itemsize)
        self._states: dict[str, FamilySimilarities] = {}

    @property
    def pair(self) -> Pair:
        return self._pair

    def votes(self, family: GroupFamily, permutations: Permutations) -> Votes:
        """Return what the family is to be solved on: similarities, or terms.

        Terms, contracted for one pair of parents at a time, where similarities are too large
        or two groups inside one parent meet.
        """
        if is_dense(family, self._pair.groups):
            return self.similarities(family, permutations)
        return list(self._pair.terms(family, permutations))

    def gain(
        self, family: GroupFamily, votes: Votes, before: Permutations, after: Permutations
    ) -> float:
        """Return how much the objective rises from one order of a family to another.

        sum over i of S[i, p'[i]] - S[i, p[i]], over all its chains: n numbers of a matrix that is
        there already. That is the true rise only where F is linear in the family; where it meets
        itself, S is a gradient, and the models are compared instead.
        """
        if family.meets_itself or not is_dense(family, self._pair.groups):
            return self._pair.value(family, after) - self._pair.value(family, before)
        return sum(
            similarity.rise(chain.order(before), chain.order(after))
            for chain in family.chains()
            for similarity in votes
            if similarity.groups == chain.groups and isinstance(similarity, Similarity)
        )

    def similarities(self, family: GroupFamily, permutations: Permutations) -> list[Similarity]:
        """Return one similarity for each chain of a family, all else in its present order.

        Exact where the family meets itself nowhere, else linearised at the present order.
        """
        state = self._update(family, self._orders(family, permutations))
        if family.root in self._kept:
            self._states[family.root] = state
        shapes = {chain.groups: chain.shape for chain in family.chains()}
        return [
            Similarity(groups, values.reshape(*shapes[groups], *shapes[groups]))
            for groups, values in state.values.items()
        ]

    def _orders(self, family: GroupFamily, permutations: Permutations) -> Orders:
        """Return the order of every chain in the family's sites.

        Those of its own chains too: where the family meets itself, they are another's orders.
        """
        chains = {chain.groups: chain for site in family.sites for chain in site.chains}
        device = self._pair.device
        return {g: chain.order(permutations).to(device) for g, chain in chains.items()}

    def _update(self, family: GroupFamily, orders: Orders) -> FamilySimilarities:
        # Taken out meanwhile: similarities made anew are not to lie beside those they replace.
        state = self._states.pop(family.root, None)
        if state is None or state.updates >= UPDATES:
            del state
            return self._anew(family, orders)
        moved = {
            groups: (order != state.orders[groups]).nonzero().flatten()
            for groups, order in orders.items()
        }
        if update_work(family, moved) > ANEW * update_work(family):
            del state
            return self._anew(family, orders)
        # A chain's own place is left out: its order is not in its similarity. The tensors of
        # sites around which nothing moved are not even loaded.
        for site, position in _places(family):
            others = [k for k in range(len(site.chains)) if k != position]
            if any(len(moved[site.chains[k].groups]) for k in others):
                values = state.values[site.chains[position].groups]
                self._add_difference(values, site, position, (state.orders, orders), moved)
        return FamilySimilarities(
            state.values, orders, state.updates + any(map(len, moved.values()))
        )

    def _anew(self, family: GroupFamily, orders: Orders) -> FamilySimilarities:
        like = torch.empty(0, dtype=self._pair.dtype, device=self._pair.device)
        values = {
            chain.groups: zeros_with_room(chain.size, chain.size, like=like)
            for chain in family.chains()
        }
        for site, position in _places(family):
            self._add_product(values[site.chains[position].groups], site, position, orders)
        return FamilySimilarities(values, orders)

    def _add_product(self, values: Tensor, site: Site, position: int, orders: Orders) -> None:
        """Add a site's share. On its own, so that its copies are gone before the next site's."""
        around_it = chain_orders(site.chains, orders, position=position)

        def operands(pair: Pair) -> tuple[Tensor, Tensor]:
            reference, other = pair.arrays(site)
            return as_rows(reference, position), as_rows(_ordered(other, around_it), position)

        add_product(self._pair.pool, values, *with_room(self._near(values), operands))

    def _near(self, values: Tensor) -> Pair:
        """Return the pair where some similarities are: beside the device, if that had no room."""
        here = values.device.type == self._pair.device.type
        return self._pair if here else self._pair.aside

    def _add_difference(
        self,
        values: Tensor,
        site: Site,
        position: int,
        orders: tuple[Orders, Orders],
        moved: Mapping[tuple[str, ...], Tensor],
    ) -> None:
        """Add what a site's share has changed by, one moved chain after another.

        With two chains q and r moved, S(q', r') - S(q, r) is (S(q', r) - S(q, r)) + (S(q', r') -
        S(q', r)): `now` holds the orders that have been accounted for so far.
        """
        before, after = (chain_orders(site.chains, each, position=position) for each in orders)
        now = list(before)
        for k, chain in enumerate(site.chains):
            units = moved[chain.groups]
            if k == position or not len(units):
                continue
            step = _Step(site, position, k, units, tuple(now), after[k])
            add_product(self._pair.pool, values, *with_room(self._near(values), step.operands))
            now[k] = after[k]


@dataclass(frozen=True)
class _Step:
    """The units of one chain that moved, all other chains in an order.

    now: of every chain, before the step. after: of this one.
    """

    site: Site
    position: int
    chain: int
    units: Tensor
    now: tuple[Tensor | None, ...]
    after: Tensor | None

    def operands(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return what a similarity changes by, as rows and columns of a product."""
        reference, other = pair.arrays(self.site)
        units, k = self.units.to(pair.device), self.chain
        change = _take_units(other, k, self.after, units)
        # Subtracted before the product and not after it: one product of small numbers,
        # whose rounding is that of what moved.
        change -= _take_units(other, k, self.now[k], units)
        rest = [None if j == k else order for j, order in enumerate(self.now)]
        rows = as_rows(reference.index_select(k, units), self.position)
        return rows, as_rows(_ordered(change, rest), self.position)


def _ordered(array: Tensor, orders: Sequence[Tensor | None]) -> Tensor:
    """Return an array in some orders, which are brought to its device."""
    return reorder(array, [None if o is None else o.to(array.device) for o in orders])


def is_dense(family: GroupFamily, groups: Mapping[str, BoundGroup]) -> bool:
    """Return whether a family is matched on similarities of all pairs of units at once.

    Not where two groups are side by side in one parent, as in a chain (head, q, v): its best
    order is not found by assignments one inside the other, and `joint` needs the terms.
    """
    return all(
        chain.nested(groups) and (len(chain.shape) == 1 or chain.size <= LARGEST)
        for chain in family.chains()
    )


def kept_words(families: Mapping[str, GroupFamily], words: int) -> dict[str, int]:
    """Return the words of the similarities of the families, in their order, that fit into some.

    Families that are matched on terms have room here too, though they never take it.
    """
    found = dict[str, int]()
    for root, family in families.items():
        needed = sum(chain.size**2 for chain in family.chains())
        if needed <= words:
            words -= needed
            found[root] = needed
    return found


def _take_units(array: Tensor, position: int, order: Tensor | None, units: Tensor) -> Tensor:
    assert order is not None
    return array.index_select(position, order.to(array.device)[units])


def _places(family: GroupFamily) -> Iterator[tuple[Site, int]]:
    """Yield every place of a family: a site, and the position of its chain in it."""
    for site in family.sites:
        for position in family.own(site):
            yield site, position


def update_work(
    family: GroupFamily, moved: Mapping[tuple[str, ...], Tensor] | None = None
) -> float:
    """Return the multiplications that an update takes; moved None: of making all anew.

    A site of numel = n k m values costs numel * n: every unit of n against every other.
    """
    total = 0.0
    for site, position in _places(family):
        others = [chain for k, chain in enumerate(site.chains) if k != position]
        share = 1.0 if moved is None else sum(len(moved[c.groups]) / c.size for c in others)
        total += share * site.numel * site.chains[position].size
    return total

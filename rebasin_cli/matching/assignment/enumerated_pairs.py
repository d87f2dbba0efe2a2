"""All orders of one small group inside a pair of units, each with the best of what it meets.

Queries within a key-value head are few, and once their order is fixed the dims inside them
are one assignment. What an order changes is a sum of precomputed blocks, so the tensors are
contracted once, not once for each order.

For k queries and n dims that meet in a term of A and B, both (k, n, m), and T terms of one alone:

    C[a, b, i, j] = sum over m of A[a, i, m] B[b, j, m]
    F(s, q) = sum over a of T1[a, s[a]] + sum over i of (T2 + sum over a of C[a, s[a]])[i, q[i]]

For a given s this is an assignment in q, so the k! best ones hold the best of all: exact, for
k! sums and at most as many assignments (fewer by the bound). Ours; see `joint`.

One product makes C for all pairs of heads; an order of the queries is then tried in all of them
together, and one call solves the assignments of those in which it can still win. Pair by pair,
coming to an assignment takes several times as long as solving it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.inside import PairOrders, among_pairs, in_place
from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.matching.problem.terms import Term
from rebasin_cli.spec.binding.bound import BoundGroup

ENUMERATED = 24  # orders of 4 queries: few enough to try them all in every pair of heads
TOGETHER = 8192  # units in all heads and queries: their similarities take 256 MB in float32


@dataclass(frozen=True)
class _Crossed:
    """What a group is worth inside every pair: alone (n, n, d, d), and with a met by b.

    crossed: (n, n, k, k, d, d) for a small group of k units.
    """

    alone: Tensor
    crossed: Tensor

    def similar(self, pairs: Tensor, orders: Tensor) -> Tensor:
        """Return the similarities (p, d, d) of some pairs, given an order (p, k) in each."""
        rows = torch.arange(orders.shape[1])
        met = self.crossed.flatten(0, 1)[pairs[:, None], rows, orders]
        return self.alone.flatten(0, 1)[pairs] + met.sum(1)


@dataclass(frozen=True)
class _UnitPairs:
    """All pairs of units: the small group inside them, alone (n, n, k, k), and what it meets."""

    name: str
    small: str
    alone: Tensor
    met: Mapping[str, _Crossed]

    def best(self, current: Mapping[str, Tensor], step: float) -> PairOrders:
        """Return the best orders inside each pair; a tie goes to those in place."""
        size, count = len(self.alone), len(self.alone) ** 2
        value = torch.full((count,), -torch.inf, dtype=torch.float64)
        index = {g: torch.zeros(count, m.alone.shape[-1]).long() for g, m in self.met.items()}
        index[self.small] = torch.zeros(count, self.alone.shape[-1]).long()
        for pairs, orders in self._tried(current):
            reached = value[pairs] + step * value[pairs].abs()
            better, worth, found = self._rise(pairs, orders, reached, current)
            value[better] = worth
            for g, each in found.items():
                index[g][better] = each
        return PairOrders(
            value.reshape(size, size),
            {g: each.reshape(size, size, -1) for g, each in index.items()},
        )

    def _rise(
        self, pairs: Tensor, orders: Tensor, reached: Tensor, current: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the pairs for which an order beats what was reached, its value, and indices."""
        worth, similar = self._alone(pairs, orders), self._similar(pairs, orders)
        # No assignment is worth more than the best of each row: an order that cannot win by this
        # bound costs none. Nothing was reached at first: -inf + inf is no number, and beaten.
        highest = worth + sum(s.amax(2).double().sum(1) for s in similar.values())
        hopeful = ~(highest <= reached)
        where, worth, found = pairs[hopeful], worth[hopeful], {self.small: orders[hopeful]}
        for g, values in similar.items():
            problems = values[hopeful]
            found[g] = assign_all(problems, among_pairs(where, in_place(self.name, g, current)))
            worth += problems.double().gather(2, found[g][:, :, None]).sum((1, 2))
        better = ~(worth <= reached[hopeful])
        return where[better], worth[better], {g: each[better] for g, each in found.items()}

    def _tried(self, current: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs with an order (p, k) of the small group in each; first what is in place."""
        size, count = len(self.alone), len(self.alone) ** 2
        if self.name in current and self.small in current:
            yield size * torch.arange(size) + current[self.name].cpu(), current[self.small].cpu()
        for order in all_orders(self.alone.shape[-1]):
            yield torch.arange(count), order.expand(count, -1)

    def _alone(self, pairs: Tensor, orders: Tensor) -> Tensor:
        rows = torch.arange(orders.shape[1])
        return self.alone.flatten(0, 1)[pairs[:, None], rows, orders].double().sum(1)

    def _similar(self, pairs: Tensor, orders: Tensor) -> dict[str, Tensor]:
        return {g: m.similar(pairs, orders) for g, m in self.met.items()}


def solve_enumerated(
    terms: Sequence[object],
    groups: Mapping[str, BoundGroup],
    current: Mapping[str, Tensor],
    step: float,
) -> PairOrders | None:
    """Return the best orders inside all pairs of units, None if they cannot be enumerated.

    terms: all have the group of the units as their first dimension. They can be enumerated where
    some group inside has at most ENUMERATED orders, and fixing one makes all others independent.
    step: the relative rise below which two values tie.
    """
    found = direct_terms(terms, groups)
    if not found:
        return None
    sizes = group_sizes(found)
    name, *inside = sizes
    small = min(inside, key=sizes.__getitem__)
    others = [group for group in inside if group != small]
    if not _enumerable(name, small, found, sizes):
        return None
    alone = summed_products(found, (name, small), sizes)
    met = {
        g: _Crossed(
            summed_products(found, (name, g), sizes),
            summed_products(found, (name, small, g), sizes),
        )
        for g in others
    }
    return _UnitPairs(name, small, alone, met).best(current, step)


def direct_terms(terms: Sequence[object], groups: Mapping[str, BoundGroup]) -> list[Term]:
    """Return terms if all of their groups but the first lie in its units directly, and move.

    Else nothing; so it is where more than two of them meet, or one twice.
    """
    found = [term for term in terms if isinstance(term, Term)]
    if len(found) < len(terms):
        return []
    name, *inside = group_sizes(found)
    direct = all(groups[g].parents[-1:] == (name,) and not groups[g].fixed for g in inside)
    once = all(len(set(t.groups)) == len(t.groups) <= 3 and t.groups[0] == name for t in found)
    return found if direct and once else []


def _enumerable(name: str, small: str, terms: Sequence[Term], sizes: Mapping[str, int]) -> bool:
    """Return whether fixing an order of the small group leaves nothing else to meet."""
    meeting = {group for t in terms if len(t.groups) == 3 for group in t.groups}
    meets = all(len(t.groups) < 3 or small in t.groups for t in terms)
    few = math.factorial(sizes[small]) <= ENUMERATED
    fits = sizes[name] * sizes[small] * max(sizes[g] for g in sizes if g != name) <= TOGETHER
    return meets and meeting == sizes.keys() and few and fits


def group_sizes(terms: Sequence[Term]) -> dict[str, int]:
    """Return the sizes of the groups of terms."""
    return {g: size for t in terms for g, size in zip(t.groups, t.reference.shape, strict=False)}


def all_orders(size: int) -> Iterator[Tensor]:
    """Yield every order of a group if there are at most ENUMERATED of them, else nothing."""
    if math.factorial(size) <= ENUMERATED:
        yield from map(torch.tensor, permutations(range(size)))


def summed_products(
    terms: Sequence[Term], names: tuple[str, ...], sizes: Mapping[str, int]
) -> Tensor:
    """Return the sum of the products of all terms of some groups, (n, n, *pairs of sizes)."""
    shape, count = [sizes[name] for name in names], len(names)
    total = torch.zeros(*shape, *shape, dtype=terms[0].dtype)
    for term in terms:
        if set(term.groups) != set(names):
            continue
        axes = [term.groups.index(name) for name in names]
        sides = [v.permute(*axes, -1) for v in (term.reference, term.other)]
        rows, columns = (side.reshape(math.prod(shape), -1) for side in sides)
        total = total + (rows @ columns.T).cpu().reshape(total.shape)
    return total.permute(*(axis for k in range(count) for axis in (k, count + k)))

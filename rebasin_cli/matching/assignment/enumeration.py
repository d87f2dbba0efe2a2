"""All orders of one small group, each with the best permutations of the groups it meets.

Queries within a key-value head are few, and once their order is fixed the dims inside them
are one assignment. What an order changes is a sum of precomputed blocks, so the tensors are
contracted once, not once for each order.

For k queries and n dims that meet in a term of A and B, both (k, n, m), and T terms of one alone:

    C[a, b, i, j] = sum over m of A[a, i, m] B[b, j, m]
    F(s, q) = sum over a of T1[a, s[a]] + sum over i of (T2 + sum over a of C[a, s[a]])[i, q[i]]

For a given s this is an assignment in q, so the k! best ones hold the best of all: exact, for
k! sums and at most as many assignments (fewer by the bound). Ours; see `joint`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations as orders

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign
from rebasin_cli.matching.problem.terms import Term

ENUMERATED = 24  # orders of 4 queries: few enough to try them all in every pair of heads


@dataclass(frozen=True)
class Met:
    """What a group is worth: alone (n, n), and with unit a of the small group matched to b.

    crossed: (k, k, n, n) for a small group of k units.
    """

    alone: Tensor
    crossed: Tensor


@dataclass(frozen=True)
class Enumeration:
    """The similarity (k, k) of the small group by itself, and of each group that it meets."""

    name: str
    alone: Tensor
    met: Mapping[str, Met]

    def best(self, current: Mapping[str, Tensor], step: float) -> tuple[float, dict[str, Tensor]]:
        """Return the largest value and its indices; a tie goes to the order in place.

        step: the relative rise below which two values tie.
        """
        best, index = -math.inf, dict[str, Tensor]()
        here = [current[self.name].cpu()] if self.name in current else []
        for order in (*here, *all_orders(len(self.alone))):
            rows = torch.arange(len(order))
            value = float(self.alone[rows, order].double().sum())
            similar = {g: m.alone + m.crossed[rows, order].sum(0) for g, m in self.met.items()}
            # No assignment is worth more than the best of each row: an order that cannot win by
            # this bound costs no assignment. The order in place is tried first and so wins ties.
            highest = value + sum(float(s.amax(1).double().sum()) for s in similar.values())
            if highest <= best + step * abs(best):
                continue
            found = {g: assign(s, current.get(g)) for g, s in similar.items()}
            for group, chosen in found.items():
                value += float(similar[group][torch.arange(len(chosen)), chosen].double().sum())
            if value > best + step * abs(best) or not index:
                best, index = value, {self.name: order, **found}
        return best, index


def enumeration(tops: Sequence[str], terms: Sequence[Term]) -> Enumeration | None:
    """Return the orders of tops[0] as a problem to enumerate, None if they cannot be.

    They can if they are at most ENUMERATED, and if fixing one makes all other groups independent.
    Then no term is quadratic, none holds two of the others, and nothing is inside any of them.
    """
    small, *others = tops
    sizes = group_sizes(terms)
    exact = all(len(set(t.groups)) == len(t.groups) <= 2 for t in terms)
    meets = all(small in t.groups or len(t.groups) == 1 for t in terms)
    if not (exact and meets and sizes.keys() == set(tops)):
        return None
    if math.factorial(sizes[small]) > ENUMERATED:
        return None
    return Enumeration(
        small,
        _alone(small, sizes[small], terms),
        {group: _met(small, group, sizes, terms) for group in others},
    )


def group_sizes(terms: Sequence[Term]) -> dict[str, int]:
    """Return the sizes of the groups of terms."""
    return {g: size for t in terms for g, size in zip(t.groups, t.reference.shape, strict=False)}


def _met(small: str, group: str, sizes: Mapping[str, int], terms: Sequence[Term]) -> Met:
    """Return C, one product of (k n, m) matrices a term, and what the group is worth alone."""
    k, n = sizes[small], sizes[group]
    crossed = torch.zeros(k, k, n, n)
    for term in terms:
        if set(term.groups) == {small, group}:
            front = term.groups.index(small)
            rows = term.reference.movedim(front, 0).reshape(k * n, -1)
            columns = term.other.movedim(front, 0).reshape(k * n, -1)
            pairs = (rows @ columns.T).cpu().reshape(k, n, k, n)
            crossed = crossed + pairs.transpose(1, 2)
    return Met(_alone(group, n, terms), crossed)


def _alone(group: str, size: int, terms: Sequence[Term]) -> Tensor:
    """Return the similarity (n, n) from the terms that hold one group and no other."""
    total = torch.zeros(size, size)
    for term in terms:
        if term.groups == (group,):
            total = total + term.similarity().cpu()
    return total


def all_orders(size: int) -> Iterator[Tensor]:
    """Yield every order of a group if there are at most ENUMERATED of them, else nothing."""
    if math.factorial(size) <= ENUMERATED:
        yield from map(torch.tensor, orders(range(size)))

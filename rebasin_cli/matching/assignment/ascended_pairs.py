"""What `joint` improves in turn inside one pair of units, for all pairs at once.

Grouped convolutions: n groups of channels, k channels that one convolution writes and m that the
next reads inside each, and a weight in which both meet. Their best orders are no assignment, and
too many to be enumerated; but a round of the ascent is the same for all n^2 pairs: one product of
stacks of matrices, and one call that solves what every pair has to assign. Pair by pair a visit
of 16 groups of 32 channels took five times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.enumerated_pairs import (
    ENUMERATED,
    TOGETHER,
    direct_terms,
    group_sizes,
    summed_products,
)
from rebasin_cli.matching.assignment.inside import PairOrders, among_pairs, in_place
from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.matching.problem.terms import Term, arrange
from rebasin_cli.spec.binding.bound import BoundGroup

AT_ONCE = 1 << 22  # numbers of the other model that are put in order at a time

NONE = frozenset[str]()
OrdersInside = Mapping[str, Tensor]  # (p, k) by group: an order in each of p pairs


@dataclass(frozen=True)
class _Meeting:
    """Values in which two groups meet inside each unit, ready to be multiplied.

    groups: the one that is asked for, of k units, and the one that is in some order, of m.
    reference: (n, k, m r). other: (n, m, r, k).
    """

    groups: tuple[str, str]
    reference: Tensor
    other: Tensor

    @classmethod
    def facing(cls, term: Term, axis: int) -> _Meeting:
        """Return a term (n, k, m, r) or (n, m, k, r) as it is for the group on one of its axes."""
        reference, other = (v.movedim(axis, 1) for v in (term.reference, term.other))
        groups = term.groups[axis], term.groups[3 - axis]
        return cls(groups, reference.flatten(2), other.permute(0, 2, 3, 1).contiguous())

    def similar(self, pairs: Tensor, order: Tensor) -> Tensor:
        """Return the similarities (p, k, k) of the first group; order: of the second, (p, m).

        S[a, b] = sum over c, r of A[i, a, c, r] B[j, b, order[c], r] inside the pair (i, j). pairs:
        ascending.
        """
        found = [
            torch.matmul(self.reference[i], self.other[j[:, None], order[here]].flatten(1, 2))
            for i, j, here in self._some(pairs)
        ]
        return torch.cat(found).cpu()

    def _some(self, pairs: Tensor) -> Iterator[tuple[int, Tensor, slice]]:
        """Yield a unit of the reference, some that it is paired with, and which pairs these are."""
        size, step = len(self.reference), max(1, AT_ONCE // self.reference[0].numel())
        start = 0
        for i, count in zip(
            *torch.unique_consecutive(pairs // size, return_counts=True), strict=True
        ):
            for begin in range(start, start + int(count), step):
                here = slice(begin, min(begin + step, start + int(count)))
                yield int(i), pairs[here] % size, here
            start += int(count)


@dataclass(frozen=True)
class _MeetingGroups:
    """Groups that terms connect, the smallest first, inside all pairs of n units of a group.

    step: the relative rise below which two values tie.
    """

    name: str
    groups: tuple[str, ...]
    terms: Sequence[Term]
    sizes: Mapping[str, int]
    step: float

    def best(self, current: OrdersInside) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the best orders that are found are worth (n^2,), and the orders.

        From nothing known in every pair; where orders are in place, from these before that.
        """
        kept = {g: in_place(self.name, g, current) for g in self.groups}
        every = torch.arange(self.sizes[self.name] ** 2)
        value, orders = self._ascend(every, {}, kept)
        places = [pair for pair in kept[self.groups[0]] if all(pair in k for k in kept.values())]
        if places:
            pairs = torch.tensor(places)
            start = {g: torch.stack([kept[g][p].cpu() for p in places]) for g in self.groups}
            reached, found = self._ascend(pairs, start, {})
            # in place comes first: what was found from nothing has to be worth more
            stays = ~(value[pairs] > reached + self.step * reached.abs())
            value[pairs[stays]] = reached[stays]
            for g, each in found.items():
                orders[g][pairs[stays]] = each[stays]
        return value, orders

    def _ascend(
        self, pairs: Tensor, start: OrdersInside, kept: Mapping[str, Mapping[int, Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Improve the groups in turn in some pairs, until no value rises; see `joint`.

        start: orders of all groups, or of none. kept: orders that win ties where none is known.
        """
        known = {g: each.clone() for g, each in start.items()}
        value = torch.full((len(pairs),), -torch.inf, dtype=torch.float64)
        if start:
            value = self._worth(pairs, start)
        active = torch.arange(len(pairs))
        while len(active):
            here = pairs[active]
            trial = {g: each[active] for g, each in known.items()}
            for g in (*self.groups[1:], self.groups[0]):
                similar = self._similar(g, here, trial)
                ties = (
                    dict(enumerate(trial[g])) if g in trial else among_pairs(here, kept.get(g, {}))
                )
                trial[g] = assign_all(similar, ties)
            reached = self._worth(here, trial, similar)
            # nothing was reached at first: -inf + inf is no number, and beaten
            better = ~(reached <= value[active] + self.step * value[active].abs())
            active, rows = active[better], better.nonzero()[:, 0]
            value[active] = reached[rows]
            for g, each in trial.items():
                known.setdefault(g, torch.zeros(len(pairs), each.shape[1]).long())
                known[g][active] = each[rows]
        return value, known

    def _similar(
        self, group: str, pairs: Tensor, known: OrdersInside, *, without: frozenset[str] = NONE
    ) -> Tensor:
        """Return the similarities (p, k, k) of a group, what is not known being sorted away.

        without: groups of which nothing that they meet in counts.
        """
        total = self._alone[group][pairs]
        for number, facing in enumerate(self._meetings):
            own, other = facing.groups
            if own != group or other in without:
                continue
            if other in known:
                total += facing.similar(pairs, known[other])
            else:
                total += self._descriptors[number][pairs]
        return total

    def _worth(self, pairs: Tensor, orders: OrdersInside, first: Tensor | None = None) -> Tensor:
        """Return what orders of all groups are worth (p,). first: similarities of the first group.

        Those hold all that meets it; what others meet in counts once.
        """
        total, counted = torch.zeros(len(pairs), dtype=torch.float64), NONE
        for g in self.groups:
            similar = first if first is not None and not counted else None
            if similar is None:
                similar = self._similar(g, pairs, orders, without=counted)
            total += similar.double().gather(2, orders[g][:, :, None]).sum((1, 2))
            counted |= {g}
        return total

    @cached_property
    def _meetings(self) -> list[_Meeting]:
        return [_Meeting.facing(term, axis) for term, axis in self._places]

    @property
    def _places(self) -> list[tuple[Term, int]]:
        """The terms in which two groups meet, each once for the axis of either."""
        return [(term, axis) for term in self.terms if len(term.groups) == 3 for axis in (1, 2)]

    @cached_property
    def _alone(self) -> dict[str, Tensor]:
        """The similarities (n^2, k, k) of each group from the terms without another."""
        return {g: self._made(g, self.terms) for g in self.groups}

    @cached_property
    def _descriptors(self) -> list[Tensor]:
        """Those of the group at each place, the other that it meets there being sorted away."""
        found = []
        for term, axis in self._places:
            owners = (*term.groups, None)
            known = arrange(term.reference, term.other, owners, (0, axis), {})
            found.append(self._made(term.groups[axis], [known]))
        return found

    def _made(self, group: str, terms: Sequence[Term]) -> Tensor:
        return summed_products(terms, (self.name, group), self.sizes).flatten(0, 1)


def solve_ascending(
    terms: Sequence[object],
    groups: Mapping[str, BoundGroup],
    current: OrdersInside,
    step: float,
) -> PairOrders | None:
    """Return good orders inside all pairs of units, None where `joint` has to go pair by pair.

    terms: all have the group of the units as their first dimension. At most two groups meet in one,
    nothing is inside them, and none has so few orders that they are enumerated. step: the relative
    rise below which two values tie.
    """
    found = direct_terms(terms, groups)
    if not found:
        return None
    sizes = group_sizes(found)
    name, *inside = sizes
    parts, count = _connected(inside, found), sizes[name]
    fits = count * max(sizes[g] for g in inside) <= TOGETHER
    if not fits or any(_few(part, sizes) for part in parts):
        return None
    value, index = torch.zeros(count**2, dtype=torch.float64), dict[str, Tensor]()
    for tops in parts:
        ordered = tuple(sorted(tops, key=sizes.__getitem__))
        own = [term for term in found if term.groups[1] in tops]
        worth, orders = _MeetingGroups(name, ordered, own, sizes, step).best(current)
        value += worth
        index.update(orders)
    return PairOrders(
        value.reshape(count, count),
        {g: each.reshape(count, count, -1) for g, each in index.items()},
    )


def _few(part: Sequence[str], sizes: Mapping[str, int]) -> bool:
    """Return whether groups meet of which one has few orders: these are all tried, see `joint`."""
    return len(part) > 1 and math.factorial(min(sizes[g] for g in part)) <= ENUMERATED


def _connected(groups: Sequence[str], terms: Sequence[Term]) -> list[list[str]]:
    """Return the groups that terms connect, directly or by way of others, in their order."""
    part = {group: number for number, group in enumerate(groups)}
    for term in terms:
        touched = {part[group] for group in term.groups[1:]}
        part = {g: min(touched) if number in touched else number for g, number in part.items()}
    return [[g for g in groups if part[g] == k] for k in dict.fromkeys(part.values())]

"""The best permutations of a whole family at once, given everything outside it.

The value of giving reference head i the other's head j is the sum of the best assignments of
everything inside; one assignment over heads then settles both levels. This is exact as long
as no block holds two dimensions inside the same parent (queries within a key-value head and
the dims inside those queries; a square recurrent matrix inside each head): there the smaller
group's orders are enumerated if they are few, and otherwise the groups are improved in turn,
from several starts, until none moves.

In letters, for n heads with groups g of sizes d_g inside them, S of heads alone (n, n) and S_g
of all pairs of dims (n, d_g, n, d_g):

    V[i, j] = S[i, j] + sum over g of  max over orders q of  sum over a of S_g[i, a, j, q[a]]
    p       = argmax over orders p of  sum over i of V[i, p[i]]

The maximum over p and all q together is the same number, since what is inside the pair (i, p[i])
meets nothing of another pair: a dynamic programme over the tree of groups, of which n^2 small
assignments and one large one are solved at each node. Two assignments one after the other,
heads by the dims as they happen to stand and dims afterwards, are no maximum of the pair.
Ours; heads by Hungarian method over Hungarian method are in Verma and Elbayad 2024
(arXiv 2403.00986), for activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.ascended_pairs import solve_ascending
from rebasin_cli.matching.assignment.enumerated_pairs import all_orders, solve_enumerated
from rebasin_cli.matching.assignment.inside import PairOrders, one_level, solve_inside
from rebasin_cli.matching.assignment.linear import assign
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.terms import Term
from rebasin_cli.permutation import Permutation, identity
from rebasin_cli.spec.binding.bound import BoundGroup

STEP = 1e-7  # a relative rise below float32's resolution is no rise


@dataclass(frozen=True)
class Solution:
    """The value of the best permutations, and their indices by group name."""

    value: float
    index: Mapping[str, Tensor]


@dataclass(frozen=True)
class Level:
    """Groups by name, and the indices in place now, restricted to one choice of their parents.

    `current` breaks ties and nothing else: what is worth as much as the best stays as it is, or
    units that nothing reads would change places at every visit.
    """

    groups: Mapping[str, BoundGroup]
    current: Mapping[str, Tensor]

    def inside(self, name: str, row: int, column: int) -> Level:
        """Return the level inside (row, column) of group `name`; `current` if that is in place."""
        # The order inside a head that is now in another's place says nothing about this pair.
        here = self.current.get(name)
        if here is None or int(here[row]) != column:
            return Level(self.groups, {})
        within = {g: index[row] for g, index in self.current.items() if index.dim() > 1}
        return Level(self.groups, within)


Votes = Sequence[Term | Similarity]


def solve_family(name: str, votes: Votes, level: Level) -> Solution:
    """Return the best permutation of a group and, for each of its units, of all inside it.

    votes: all have the group as their first dimension. The units of a fixed group stay.
    Costs O(n^3) for the group and O(n^2 d^3) for d units inside each of its n, besides products.
    """
    terms = [term.folded(level.groups) for term in votes]
    if level.groups[name].fixed:
        return _in_place(name, terms, level)
    flat = [term for term in terms if len(term.groups) == 1]
    nested = [term for term in terms if len(term.groups) > 1]
    size = level.groups[name].size
    values = _summed([term.similarity().cpu() for term in flat], size, terms[0].dtype)
    if not nested:
        index = assign(values, level.current.get(name))
        return Solution(_trace(values, index), {name: index})
    # Nothing deeper than one level and nothing that meets: all n^2 problems inside are of one
    # size, and one call solves them; so it is with the orders of a few queries, and with groups
    # of which two at most meet. Otherwise every pair is a family of its own, by recursion.
    found = _inside(name, nested, level)
    if found:
        values = values + found.values.to(values.dtype)
        index = assign(values, level.current.get(name))
        return Solution(_trace(values, index), {name: index, **found.chosen(index)})
    pairs = [
        [_siblings([t.at(i, j) for t in nested], level.inside(name, i, j)) for j in range(size)]
        for i in range(size)
    ]
    worth = torch.tensor([[pair.value for pair in row] for row in pairs], dtype=values.dtype)
    values = values + worth
    index = assign(values, level.current.get(name))
    # Row i is for the reference's unit i, as an index of a group inside another is kept: by the
    # unit of the frame, not by the one of the other model that ends up there.
    chosen = [row[j] for row, j in zip(pairs, index.tolist(), strict=True)]
    inside = {g: torch.stack([s.index[g] for s in chosen]) for g in chosen[0].index}
    return Solution(_trace(values, index), {name: index, **inside})


def _inside(name: str, nested: Votes, level: Level) -> PairOrders | None:
    """Return the best orders inside all pairs of units, if they can be found together."""
    similarities = one_level(nested)
    if similarities:
        return solve_inside(name, similarities, level.current)
    together = nested, level.groups, level.current, STEP
    return solve_enumerated(*together) or solve_ascending(*together)


def _in_place(name: str, terms: Votes, level: Level) -> Solution:
    """Return the best permutations of all inside each unit of a group that does not move.

    V is needed on its diagonal alone, so n problems are solved instead of n^2.
    """
    flat = [term for term in terms if len(term.groups) == 1]
    nested = [term for term in terms if len(term.groups) > 1]
    index = torch.arange(level.groups[name].size)
    value = sum(term.in_place() for term in flat)
    if not nested:
        return Solution(value, {name: index})
    chosen = [
        _siblings([term.at(k, k) for term in nested], level.inside(name, k, k))
        for k in index.tolist()
    ]
    inside = {g: torch.stack([s.index[g] for s in chosen]) for g in chosen[0].index}
    return Solution(value + sum(s.value for s in chosen), {name: index, **inside})


def _summed(similarities: Sequence[Tensor], size: int, dtype: torch.dtype) -> Tensor:
    """Return the sum of (size, size) arrays; one alone is not copied."""
    if not similarities:
        return torch.zeros(size, size, dtype=dtype)
    first, *others = similarities
    return sum(others, first)


def _trace(values: Tensor, index: Tensor) -> float:
    return float(values[torch.arange(len(index)), index].double().sum())


def _siblings(terms: Votes, level: Level) -> Solution:
    """Return the best permutations of all groups directly inside one pair of parents.

    Groups that no term holds together are independent: their maxima add up.
    """
    value, index = 0.0, dict[str, Tensor]()
    for tops, members in _components(terms, level):
        alone = len(tops) == 1 and not any(_repeats(term) for term in members)
        # A similarity is of one chain, which meets nothing; only terms can hold several groups.
        meeting = [term for term in members if isinstance(term, Term)]
        part = solve_family(tops[0], members, level) if alone else _in_turn(tops, meeting, level)
        value += part.value
        index.update(part.index)
    return Solution(value, index)


def _tops(term: Term | Similarity, level: Level) -> list[str]:
    """Return the groups of a term that have no parent in it, each once."""
    outer = [g for g in term.groups if level.groups[g].parents[-1] not in term.groups]
    return list(dict.fromkeys(outer))


def _repeats(term: Term | Similarity) -> bool:
    """Return whether a group owns two dimensions: the value is then quadratic in it."""
    return len(set(term.groups)) < len(term.groups)


def _components(terms: Votes, level: Level) -> list[tuple[list[str], list[Term | Similarity]]]:
    """Return the groups at the top of the terms, together where a term holds several.

    The connected components of groups and terms: each new term joins all those that it touches.
    """
    components: list[tuple[list[str], list[Term | Similarity]]] = []
    for term in terms:
        tops, members = _tops(term, level), [term]
        apart = []
        for others, theirs in components:
            if set(others) & set(tops):
                tops, members = list(dict.fromkeys(others + tops)), theirs + members
            else:
                apart.append((others, theirs))
        components = [*apart, (tops, members)]
    return components


def _in_turn(tops: Sequence[str], terms: Sequence[Term], level: Level) -> Solution:
    """Return the best permutations of groups that meet in a term.

    Exact where the orders of the smallest can be enumerated and leave nothing else to meet;
    otherwise an ascent from several starts, groups that are not known being sorted away.
    With two groups in one array, max over p, q of sum of A[a, b] B[p[a], q[b]] is bilinear, and
    with one group twice quadratic: a quadratic assignment problem, for which nothing exact is
    quick.
    """
    # The smallest that moves comes first: it is the one to enumerate, or to begin an ascent from.
    # What is fixed comes last, having one order only.
    tops = sorted(tops, key=lambda name: (level.groups[name].fixed, level.groups[name].size))
    found = _enumerated(terms, level)
    if found:
        return found
    best, *others = (_ascend(tops, terms, level, start) for start in _starts(tops, terms, level))
    for found in others:
        best = found if found.value > best.value + STEP * abs(best.value) else best
    return best


def _enumerated(terms: Sequence[Term], level: Level) -> Solution | None:
    """Return the best permutations by all orders of a small group: the pair is the only one."""
    pair = level.groups[terms[0].groups[0]].parents[-1]
    alone = [Term((pair, *t.groups), t.reference[None], t.other[None]) for t in terms]
    current = {pair: torch.zeros(1).long(), **{g: i[None] for g, i in level.current.items()}}
    found = solve_enumerated(alone, level.groups, current, STEP)
    if found is None:
        return None
    return Solution(float(found.values), {g: index[0, 0] for g, index in found.index.items()})


def _starts(
    tops: Sequence[str], terms: Sequence[Term], level: Level
) -> Iterator[dict[str, Permutation]]:
    """Yield what to assume at first: what is in place, nothing, each order of a small group.

    tops: the smallest group that moves first. What is fixed is known from the start.
    """
    # What is in place comes first, and `_ascend` never ends below where it began: so no visit
    # makes the objective fall, although the ascent is no exact solution.
    if level.current:
        met = {group for term in terms for group in term.groups}
        yield _as_permutations({g: i for g, i in level.current.items() if g in met}, level)
    still = [name for name in tops if level.groups[name].fixed]
    known = {name: identity((level.groups[name].size,)) for name in still}
    yield known
    if tops[0] not in known:
        for order in all_orders(level.groups[tops[0]].size):
            yield {**known, tops[0]: Permutation(order)}


def _ascend(
    tops: Sequence[str], terms: Sequence[Term], level: Level, start: Mapping[str, Permutation]
) -> Solution:
    """Improve the groups in turn, the others in place, until the value stops rising.

    Each step is the exact maximum in one group; a whole round is taken back where the true value
    did not rise, since for a group that owns two dimensions a step maximises a linearisation.
    """
    known, value = dict(start), -math.inf
    # Without an order for every group there is no value yet: the first round, in which unknown
    # groups are sorted away, is then accepted whatever it is worth.
    if set(tops) <= known.keys():
        value = sum(term.value(known) for term in terms)
    while True:
        trial = dict(known)
        # The group that a start is about goes last: the others are to answer to it first.
        for name in (*tops[1:], tops[0]):
            mine = [part for term in terms for part in term.parts(name, level.groups, trial)]
            now = {**level.current, **{g: p.index for g, p in trial.items()}}
            solution = solve_family(name, mine, Level(level.groups, now))
            trial.update(_as_permutations(solution.index, level))
        reached = sum(term.value(trial) for term in terms)
        if value > -math.inf and reached <= value + STEP * abs(value):
            return Solution(value, {g: p.index for g, p in known.items()})
        known, value = trial, reached


def _as_permutations(index: Mapping[str, Tensor], level: Level) -> dict[str, Permutation]:
    """Return indices as permutations; the parents above this level are left out."""
    return {
        name: Permutation(rows, _parents(level.groups[name], rows.dim() - 1))
        for name, rows in index.items()
    }


def _parents(group: BoundGroup, depth: int) -> tuple[str, ...]:
    return group.parents[len(group.parents) - depth :]

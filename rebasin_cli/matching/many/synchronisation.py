"""Synchronisation: from a permutation for every pair of models to one for every model.

Permutations found pair by pair do not fit together: going around three models, a unit need not
come back to itself. The synchronised ones agree with as many matches of units as can be.

With M[a, b] (n, n) what matches of b's units to a's are worth, and P_b to be found, what is
maximised is the sum over pairs of <M[a, b], P_a' P_b>. M is the matrix of the match of b to a, so
that matches which hold are counted; `sweeps` has similarities in its place. An estimate (see
`factorisation`) is refined:

    P_b <- argmax over permutations of <P_b, sum over a != b of P_a M[a, b]>, b in turn

Each such step is an exact assignment and lets no agreement fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.many.factorisation import SYNC_METHODS
from rebasin_cli.matching.many.match_many import Alignment, ManyRequest
from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.similarity_cache import is_dense
from rebasin_cli.permutation import Permutation, Permutations, inverse
from rebasin_cli.spec.binding.bound import BoundGroup

STACKED = 4096  # rows of the largest matrix of all pairs of models that is factorised
ROUNDS = 100

Pairs = Mapping[tuple[int, int], Permutations]
MatchWorth = Callable[[int, int, Chain], Tensor]
"""(a, b, chain), a < b -> (n, n): what each match of a unit of a (rows) and one of b is worth."""


def synchronise(request: ManyRequest) -> Alignment:
    """Return permutations to the reference's frame that agree best with those of all pairs.

    Families that are no nests get those of the pairs with the reference, which agree by
    themselves: any tree of pairs does, having no circles.
    """
    count, reference = len(request.sources), request.reference
    pairs = {(a, b): request.match(a, b) for a, b in combinations(range(count), 2)}
    moving, groups = families(request.bound, request.movable), request.bound.groups
    star = [_to_reference(pairs, which, reference, request) for which in range(count)]
    found = [dict(permutations) for permutations in star]
    rounds = 0
    for family in moving.values():
        if is_dense(family, groups):
            reconciliation = Reconciliation(family, groups, count, reference, match_worth(pairs))
            solved, taken = reconciliation.solved(star, request.sync_method)
            rounds = max(rounds, taken)
            for which, permutations in enumerate(solved):
                found[which].update(permutations)
    return Alignment(
        tuple(found), rounds, rounds < ROUNDS, share_torn(moving.values(), pairs, count)
    )


def match_worth(pairs: Pairs) -> MatchWorth:
    """Return what matches are worth by permutations of pairs: 1 for those that these hold."""

    def worth(a: int, b: int, chain: Chain) -> Tensor:
        matrix = torch.zeros(chain.size, chain.size)
        matrix[torch.arange(chain.size), chain.order(pairs[a, b])] = 1.0
        return matrix

    return worth


@dataclass(frozen=True)
class Reconciliation:
    """One family of groups, and the worth of every match of its units between two models."""

    family: GroupFamily
    groups: Mapping[str, BoundGroup]
    count: int
    reference: int
    worth: MatchWorth

    def solved(self, start: Sequence[Permutations], method: str) -> tuple[list[Permutations], int]:
        """Return the permutations that agree most, and the rounds that it took.

        start: permutations to the reference's frame, taken where the family is too large for an
        estimate; of equal ones those near it are found. method: a key of SYNC_METHODS.
        """
        return self.refined(self.estimate(start, method) or start)

    def refined(self, start: Sequence[Permutations]) -> tuple[list[Permutations], int]:
        """Return permutations that agree no less than some, and the rounds that it took."""
        found = list(start)
        for rounds in range(1, ROUNDS + 1):
            before = list(found)
            for which in range(self.count):
                found = self.stepped(found, which)
            if found == before:
                return found, rounds
        return found, ROUNDS

    def stepped(self, found: Sequence[Permutations], which: int) -> list[Permutations]:
        """Return permutations of which one model's agree most with the others'."""
        moved: list[Permutations] = [
            {name: own[name] for name in self.family.names} for own in found
        ]
        if which != self.reference:
            moved[which] = self._rounded(self._votes(found, which), moved[which])
        return moved

    def _votes(self, found: Sequence[Permutations], which: int) -> dict[tuple[str, ...], Tensor]:
        """Return what each unit of one model is worth in each place of the frame."""
        votes = {}
        for chain in self.family.chains():
            total = torch.zeros(())
            for other in range(self.count):
                if other != which:
                    there = chain.order(found[other])
                    total = total + self._between(other, which, chain)[there]
            votes[chain.groups] = total
        return votes

    def estimate(self, start: Sequence[Permutations], method: str) -> list[Permutations] | None:
        """Return the permutations rounded from a factorisation of all pairs' matrices.

        Each chain has factors of its own; the rounding then finds orders that all of a
        family's chains agree on. None: the matrix, of (k n)^2 values, is too large.
        """
        if max(chain.size for chain in self.family.chains()) * self.count > STACKED:
            return None
        factorise = SYNC_METHODS[method]
        factors = {c.groups: factorise(self._stacked(c)) for c in self.family.chains()}
        found = []
        for which in range(self.count):
            votes = {g: u[self.reference] @ u[which].T for g, u in factors.items()}
            found.append(self._rounded(votes, start[which]))
        return found

    def _stacked(self, chain: Chain) -> Tensor:
        """Return (k, n, k, n): every pair's matrix, of a model with itself the identity.

        What matches are worth is counted in the largest there is, which of permutations is 1.
        """
        matrix = torch.zeros(self.count, chain.size, self.count, chain.size, dtype=torch.float64)
        for a, b in combinations(range(self.count), 2):
            matrix[a, :, b] = self._between(a, b, chain).double()
            matrix[b, :, a] = matrix[a, :, b].T
        matrix /= matrix.abs().max().clamp(min=torch.finfo(matrix.dtype).tiny)
        for a in range(self.count):
            matrix[a, :, a] = torch.eye(chain.size, dtype=matrix.dtype)
        return matrix

    def _between(self, a: int, b: int, chain: Chain) -> Tensor:
        return self.worth(a, b, chain) if a < b else self.worth(b, a, chain).T

    def _rounded(self, votes: Mapping[tuple[str, ...], Tensor], now: Permutations) -> Permutations:
        """Return the permutations with the most votes; of equal ones those in place."""
        similarities = [
            Similarity(c.groups, votes[c.groups].reshape(*c.shape, *c.shape))
            for c in self.family.chains()
        ]
        current = {name: p.index for name, p in now.items()}
        solution = solve_family(self.family.root, similarities, Level(self.groups, current))
        return {
            name: Permutation(index, self.groups[name].parents)
            for name, index in solution.index.items()
        }


def _to_reference(pairs: Pairs, which: int, reference: int, request: ManyRequest) -> Permutations:
    """Return the permutations that the pair of a model with the reference was given."""
    if which == reference:
        return request.still()
    return pairs[reference, which] if which > reference else inverse(pairs[which, reference])


def share_torn(moving: Iterable[GroupFamily], pairs: Pairs, count: int) -> float:
    """Return the share of units that do not come back from a way around three models.

    pairs: (a, b) -> the permutations that bring b into a's frame, a < b.
    """
    lost = units = 0
    for chain in (chain for family in moving for chain in family.chains()):
        for a, b, c in combinations(range(count), 3):
            there = chain.order(pairs[b, c])[chain.order(pairs[a, b])]
            lost += int((there != chain.order(pairs[a, c])).sum())
            units += chain.size
    return lost / units if units else 0.0

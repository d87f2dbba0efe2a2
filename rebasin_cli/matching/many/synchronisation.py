"""Synchronisation: from a permutation for every pair of models to one for every model.

Permutations found pair by pair do not fit together: going around three models, a unit need not
come back to itself. The synchronised ones agree with as many matches of units as can be.
Source: Pachauri, Kondor, Singh 2013, "Solving the multi-way matching problem by permutation
synchronization", section 3 (spectral start); projected powers from there.

With M[a, b] (n, n) the matrix of the match of b to a, and P_b to be found, what is maximised is the
sum over pairs of <M[a, b], P_a' P_b>: how many matches of units hold. Where all pairs agree,
M = U U' with U = [P_0' ... P_k'] stacked, (k n, n): the n leading eigenvectors are U up to a
rotation, which cancels in U_ref U_b'. Where they do not, that is an estimate, and is refined:

    P_b <- argmax over permutations of <P_b, sum over a != b of P_a M[a, b]>, b in turn

Each such step is an exact assignment and lets no agreement fall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.joint import Level, solve
from rebasin_cli.matching.many.match_many import Alignment, Request
from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.similarity_cache import dense
from rebasin_cli.permutation import Permutation, Permutations, identity, inverse
from rebasin_cli.spec.binding.bound import BoundGroup

SPECTRAL = 4096  # rows of the largest matrix whose eigenvectors are computed
ROUNDS = 100

Pairs = Mapping[tuple[int, int], Permutations]


def synchronise(request: Request) -> Alignment:
    """Return permutations to the reference's frame that agree best with those of all pairs."""
    count, reference = len(request.sources), request.reference
    pairs = {(a, b): request.match(a, b) for a, b in combinations(range(count), 2)}
    moving = families(request.bound, request.movable)
    found = [dict(request.still()) for _ in range(count)]
    rounds = 0
    for family in moving.values():
        problem = PairPermutations(family, request.bound.groups, pairs, count, reference)
        solved, taken = problem.solved() if dense(family, request.bound.groups) else problem.star()
        rounds = max(rounds, taken)
        for which, permutations in enumerate(solved):
            found[which].update(permutations)
    return Alignment(tuple(found), rounds, rounds < ROUNDS, torn(moving.values(), pairs, count))


@dataclass(frozen=True)
class PairPermutations:
    """One family, and the permutations of it that were found for each pair of models.

    pairs: (a, b) -> the permutations that bring b into a's frame, a < b.
    """

    family: GroupFamily
    groups: Mapping[str, BoundGroup]
    pairs: Pairs
    count: int
    reference: int

    def star(self) -> tuple[list[Permutations], int]:
        """Return the permutations of the pairs with the reference, which agree by themselves.

        Any tree of pairs does, having no circles. Families that are no nests get these.
        """
        return [self._own(self._to_reference(which)) for which in range(self.count)], 1

    def solved(self) -> tuple[list[Permutations], int]:
        """Return the permutations that agree most, and the rounds that it took."""
        found = self._spectral() or self.star()[0]
        for rounds in range(1, ROUNDS + 1):
            before = list(found)
            for which in range(self.count):
                if which != self.reference:
                    found[which] = self._rounded(self._votes(found, which), found[which])
            if found == before:
                return found, rounds
        return found, ROUNDS

    def _votes(self, found: Sequence[Permutations], which: int) -> dict[tuple[str, ...], Tensor]:
        """Return for each unit of the frame how many models send it to each unit of one model."""
        votes = {}
        for chain in self.family.chains():
            total, rows = torch.zeros(chain.size, chain.size), torch.arange(chain.size)
            for other in range(self.count):
                if other != which:
                    there = chain.order(found[other])
                    total[rows, self._map(other, which, chain)[there]] += 1
            votes[chain.groups] = total
        return votes

    def _spectral(self) -> list[Permutations] | None:
        """Return the permutations rounded from the leading eigenvectors of all pairs' matrices.

        Each chain has eigenvectors of its own; the rounding then finds orders that all of a
        family's chains agree on. None: the matrix, of (k n)^2 values, is too large.
        """
        if max(chain.size for chain in self.family.chains()) * self.count > SPECTRAL:
            return None
        blocks = {chain.groups: self._eigenvectors(chain) for chain in self.family.chains()}
        found = []
        for which in range(self.count):
            votes = {g: u[self.reference] @ u[which].T for g, u in blocks.items()}
            found.append(self._rounded(votes, self.star()[0][which]))
        return found

    def _eigenvectors(self, chain: Chain) -> list[Tensor]:
        """Return each model's (n, n) share of the n leading eigenvectors.

        eigh puts the largest last. Their own order and signs do not matter: products of two
        shares sum over them.
        """
        rows = torch.arange(chain.size)
        matrix = torch.zeros(self.count, chain.size, self.count, chain.size, dtype=torch.float64)
        for a in range(self.count):
            for b in range(self.count):
                matrix[a, rows, b, self._map(a, b, chain)] = 1.0
        size = self.count * chain.size
        vectors = torch.linalg.eigh(matrix.reshape(size, size)).eigenvectors[:, -chain.size :]
        return list(vectors.reshape(self.count, chain.size, chain.size))

    def _map(self, a: int, b: int, chain: Chain) -> Tensor:
        """Return the unit of b that was matched to each unit of a."""
        if a == b:
            return torch.arange(chain.size)
        return chain.order(self.pairs[a, b]) if a < b else chain.order(self.pairs[b, a]).argsort()

    def _to_reference(self, which: int) -> Permutations:
        if which == self.reference:
            return {g.name: identity(g.shape, g.parents) for g in self.family.members}
        if which > self.reference:
            return self.pairs[self.reference, which]
        return inverse(self.pairs[which, self.reference])

    def _own(self, permutations: Permutations) -> Permutations:
        return {name: permutations[name] for name in self.family.names}

    def _rounded(self, votes: Mapping[tuple[str, ...], Tensor], now: Permutations) -> Permutations:
        """Return the permutations with the most votes; of equal ones those in place."""
        similarities = [
            Similarity(c.groups, votes[c.groups].reshape(*c.shape, *c.shape))
            for c in self.family.chains()
        ]
        current = {name: p.index for name, p in now.items()}
        solution = solve(self.family.root, similarities, Level(self.groups, current))
        return {
            name: Permutation(index, self.groups[name].parents)
            for name, index in solution.index.items()
        }


def torn(moving: Iterable[GroupFamily], pairs: Pairs, count: int) -> float:
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

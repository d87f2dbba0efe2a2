"""Synchronised weight matching: every visit of a family reconciles the matches of all pairs.

What is maximised is the sum over pairs of models of their inner product, as by `many`. With all
other families in place, it is for one family the sum over pairs of <S[a, b], P_a' P_b>, with S
the pair's similarity: `synchronisation` with similarities in the place of matches.

Source: `synchronized_weight_matching`, published with C2M3 (Crisostomi et al. 2024, arXiv
2405.17897), of three models. Deviations: any number of them; the descent begins with the matches
of pairs, synchronised, as from the identity it ends lower; the estimate is refined on S itself, as
are the orders in place, and the better of the two is taken if the objective rises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from rebasin_cli.matching.many.match_many import Alignment, ManyRequest
from rebasin_cli.matching.many.synchronisation import ROUNDS, Reconciliation, synchronise
from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.settings import ORDERS
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache, is_dense
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.matching.search.descent import TOLERANCE
from rebasin_cli.matching.search.threads import threads
from rebasin_cli.permutation import Permutations, compose, inverse


def synchronise_in_sweeps(request: ManyRequest) -> Alignment:
    """Return the synchronised permutations of all pairs, improved family by family.

    Families that are no nests keep those they began with.
    """
    start, settings = synchronise(request), request.settings
    moving, groups = families(request.bound, request.movable), request.bound.groups
    solvable = {root: family for root, family in moving.items() if is_dense(family, groups)}
    if not solvable or len(request.sources) < 2:
        return start
    with threads(settings, moving) as pool:
        caches = _similarities(request, solvable, pool)
        sweep = Sweep(caches, len(request.sources), request.reference, request.sync_method)
        generator = torch.Generator().manual_seed(settings.seed)
        found, rounds, moved = list(start.permutations), 0, True
        while moved and rounds < ROUNDS:
            before, rounds = found, rounds + 1
            for root in ORDERS[settings.order](list(solvable), generator):
                found = sweep.visited(solvable[root], found)
            moved = found is not before
            request.progress("sweeps", rounds, ROUNDS)
    return replace(start, permutations=tuple(found), rounds=rounds, converged=not moved)


def _similarities(
    request: ManyRequest, solvable: Mapping[str, GroupFamily], pool: Executor
) -> dict[tuple[int, int], SimilarityCache]:
    """Return the similarities of every pair, in half of the memory; the models take the other."""
    half, groups = request.settings.max_memory // 2, request.bound.groups
    models = load_models(request.sources, request.labels, request.settings.device, half)
    pairs = list(combinations(range(len(models)), 2))
    return {
        (a, b): SimilarityCache(
            Pair(models[a], models[b], groups, pool), solvable, half // len(pairs)
        )
        for a, b in pairs
    }


@dataclass(frozen=True)
class Sweep:
    """The similarities of every pair of models, and how they are reconciled."""

    caches: Mapping[tuple[int, int], SimilarityCache]
    count: int
    reference: int
    method: str

    def visited(self, family: GroupFamily, found: list[Permutations]) -> list[Permutations]:
        """Return the permutations with one family's improved, or as they were."""
        ways = self._ways(found)
        votes = {p: cache.similarities(family, ways[p]) for p, cache in self.caches.items()}
        values = {p: {s.groups: s.matrix().cpu() for s in votes[p]} for p in votes}

        def worth(a: int, b: int, chain: Chain) -> Tensor:
            return values[a, b][chain.groups]

        groups = next(iter(self.caches.values())).pair.groups
        reconciliation = Reconciliation(family, groups, self.count, self.reference, worth)
        best, most = found, TOLERANCE * sum(k.pair.scale(family) for k in self.caches.values())
        for solved in self._candidates(reconciliation, found):
            moved: list[Permutations] = [
                {**old, **own} for old, own in zip(found, solved, strict=True)
            ]
            after = self._ways(moved)
            gain = sum(k.gain(family, votes[p], ways[p], after[p]) for p, k in self.caches.items())
            if gain > most:
                best, most = moved, gain
        return best

    def _candidates(
        self, reconciliation: Reconciliation, found: Sequence[Permutations]
    ) -> Iterator[list[Permutations]]:
        """Yield permutations that may be better.

        Where a family meets itself, S is a slope that holds near the present orders alone: a step
        of one model may rise where those of several at once fall.
        """
        yield reconciliation.refined(found)[0]
        if estimate := reconciliation.estimate(found, self.method):
            yield reconciliation.refined(estimate)[0]
        if reconciliation.family.meets_itself:
            yield from (reconciliation.stepped(found, which) for which in range(self.count))

    def _ways(self, found: Sequence[Permutations]) -> dict[tuple[int, int], Permutations]:
        """Return for each pair the permutations that bring the second into the first's frame."""
        homes = [inverse(own) for own in found]
        return {(a, b): compose(found[b], homes[a]) for a, b in self.caches}

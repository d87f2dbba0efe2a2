"""One matching in progress: descents from many places, of which the best is kept.

The objective has many local optima (it is a sum of bilinear assignment problems, NP-hard from
three layers on: Ainsworth et al. 2023, section 3.2), and nothing tells the best of them. A pair
that was permuted and not trained further is the exception: there the distance is exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate

import torch

from rebasin_cli.matching.diagnostics.relation import Detail, compare_models
from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.measure import Measured
from rebasin_cli.matching.problem.result import Matching, Status
from rebasin_cli.matching.problem.settings import EFFORTS, ORDERS, Effort, Settings
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache, update_work
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.matching.relaxation.losses import LOSSES, Loss
from rebasin_cli.matching.search.descent import TOLERANCE, Descent, descend
from rebasin_cli.matching.search.starts import identity_start
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec

GIVEN = "given"  # the start that the caller gave, which is kept where nothing better is found


@dataclass(frozen=True)
class Attempt:
    """A descent, how it came about, and the objective it reached."""

    method: str
    start: str
    descent: Descent
    objective: float

    def beats(self, other: Attempt) -> bool:
        """Return whether this attempt is to be preferred: a tie goes to the identity start.

        Within float32's resolution two attempts are worth the same, and among those the one that
        moves no unit without a reason is kept; otherwise the one that was there first.
        """
        mine, theirs = self.objective, other.objective
        margin = TOLERANCE * max(abs(mine), abs(theirs))
        return mine > theirs + (-margin if self.start == "identity" else margin)


@dataclass(frozen=True)
class PairSearch:
    """The pair of models, and everything that stays the same while it is matched."""

    cache: SimilarityCache
    bound: BoundSpec
    families: Mapping[str, GroupFamily]
    settings: Settings
    progress: Progress
    detail: Detail | None = None

    @property
    def pair(self) -> Pair:
        return self.cache.pair

    @property
    def pool(self) -> Executor:
        return self.pair.pool

    @property
    def loss(self) -> Loss:
        return LOSSES[self.settings.loss]

    @property
    def effort(self) -> Effort:
        return EFFORTS[self.settings.effort]

    @property
    def cheap(self) -> bool:
        """Whether a sweep costs so little that there is time to try more than one way."""
        return sum(map(update_work, self.families.values())) <= self.effort.cheap

    def here(self) -> Attempt:
        """Return what is to be had without moving anything."""
        still = identity_start(self.pair, self.families, torch.Generator(), silent)
        return self.attempt("weights", "identity", Descent(still, (), True))

    def attempt(self, method: str, start: str, descent: Descent) -> Attempt:
        """Return a descent with the objective that it reached, less its constant part."""
        return Attempt(method, start, descent, self.worth(descent.permutations))

    def worth(self, permutations: Permutations) -> float:
        """Return what permutations are worth under the loss, less a constant part.

        Families that do not move, and tensors without a group, are the same in all attempts.
        """
        return self.pair.total(self.families, permutations, worth=self.loss.worth)

    def descend(self, start: Permutations, *, seed: int, visits: int | None = None) -> Descent:
        """Descend by coordinates. visits: of each family; None: by the settings."""
        order = ORDERS[self.settings.order]
        return descend(
            self.cache,
            start,
            order=order(list(self.families), torch.Generator().manual_seed(seed)),
            visits=visits or self.settings.visits,
            progress=self.progress,
        )

    def best(self, attempts: Iterator[Attempt]) -> Matching:
        """Return the best attempt as a matching; a perfect one ends the search.

        attempts: made as they are asked for, so that what follows a perfect one costs nothing.
        """
        # Nothing found is ever worse than leaving the units where they are, but an order that the
        # caller gave is kept even so where no descent improves on it.
        best = here = self.here()
        if self.families and not self.exact(here):
            best = next(attempts)
            while not self.exact(best) and (found := next(attempts, None)):
                best = found if found.beats(best) else best
            best = here if best.start != GIVEN and here.beats(best) else best
        return self._matching(best)

    def exact(self, attempt: Attempt) -> bool:
        """Return whether an attempt makes the models equal: there is nothing left to look for."""
        return self.pair.equal(self.families, attempt.descent.permutations)

    def _matching(self, best: Attempt) -> Matching:
        permutations = best.descent.permutations
        measured, comparison = compare_models(
            self.pair.reference,
            self.pair.other,
            self.bound,
            permutations,
            self.detail,
            cache=self.cache,
            progress=self.progress,
        )
        end = measured.objective.after
        return Matching(
            permutations=permutations,
            status=self._status(best, measured),
            objective=measured.objective,
            distance=measured.distance,
            groups=measured.groups,
            history=_history(best.descent.gains, end),
            start=best.start,
            method=best.method,
            comparison=comparison,
        )

    def _status(self, best: Attempt, measured: Measured) -> Status:
        # From the strongest statement to the weakest: equal models are equal although nothing
        # was to be moved, and an exact match is one although the limit was reached on the way.
        if not any(tensor.votes for tensor in self.bound.tensors):
            return Status.UNTOLD
        if measured.distance.before == 0:
            return Status.EQUAL
        if not self.families:
            return Status.NOTHING
        if measured.distance.after == 0:
            return Status.EXACT
        if not best.descent.converged:
            return Status.LIMIT
        moved = any(p.moved for p in best.descent.permutations.values())
        return Status.MOVED if moved else Status.STAYED


def _history(gains: Sequence[float], end: float) -> tuple[float, ...]:
    """Return the objective before the first and after each accepted step.

    Counted back from the end, which was measured in float64: gains alone are differences.
    """
    return tuple(accumulate((end - sum(gains), *gains)))

"""Carrying out `rebasin barrier --series`: the way between the models of each pair, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from rebasin_cli.commands.barrier.aligned_ends import Ordering, OrderSearch, found_orders
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.commands.barrier.run import BarrierOutcome, judge_way
from rebasin_cli.commands.barrier.scored_points import Curves, FoundBarrier, Scored
from rebasin_cli.commands.barrier.series.plan import LAST, SeriesPair, SeriesPlan
from rebasin_cli.execution.task import Executor
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.choice import Choice


@dataclass(frozen=True)
class JudgedPair:
    """What is known of the line between two models of a series."""

    pair: SeriesPair
    axis: str
    curves: Curves

    def height(self, curve: str, score: str) -> float | None:
        """Return a barrier from the chord; None if there is none that was measured."""
        for found in self.curves.barriers:
            if (found.curve, found.score) == (curve, score):
                return found.barrier.chord.height
        return None


@dataclass(frozen=True)
class Series:
    """The barriers of all pairs that were judged, in order. complete: whether those are all."""

    plan: SeriesPlan
    pairs: tuple[JudgedPair, ...]
    complete: bool
    seconds: float

    @property
    def barriers(self) -> tuple[FoundBarrier, ...]:
        return tuple(found for pair in self.pairs for found in pair.curves.barriers)

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the scores that have barriers."""
        return tuple(dict.fromkeys(found.score for found in self.barriers))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the curves."""
        return tuple(dict.fromkeys(found.curve for found in self.barriers))

    def heights(self, curve: str, score: str) -> dict[float, float]:
        """Return the barriers of a curve by place."""
        found = {pair.pair.place: pair.height(curve, score) for pair in self.pairs}
        return {place: height for place, height in found.items() if height is not None}

    def remarks(self, of: Callable[[Curves], tuple[str, ...]]) -> list[str]:
        """Return each remark once, with the place of the pair where not all have it."""
        said: dict[str, list[float]] = {}
        for pair in self.pairs:
            for sentence in of(pair.curves):
                said.setdefault(sentence, []).append(pair.pair.place)
        return [_remark(self, sentence, places) for sentence, places in said.items()]


def _remark(series: Series, sentence: str, places: list[float]) -> str:
    if len(places) == len(series.pairs):
        return sentence
    return f"{series.plan.axis} {', '.join(f'{place:g}' for place in places)}: {sentence}"


SeriesOutcome = BarrierOutcome | JudgedPair | Series


def run_series(plan: SeriesPlan, progress: Progress) -> Iterator[SeriesOutcome]:
    """Yield each point as soon as it is judged, each pair when it is, then the whole series.

    Where something fails, what was judged until then is yielded as a series before the exception.
    """
    done, began = list[JudgedPair](), perf_counter()

    def whole(*, complete: bool) -> Series:
        return Series(plan, tuple(done), complete, perf_counter() - began)

    try:
        with plan.last.workers.executor() as executor:
            for outcome in _judge_pairs(plan, executor, progress):
                if isinstance(outcome, JudgedPair):
                    done.append(outcome)
                yield outcome
    except GeneratorExit:
        raise
    except BaseException:  # Ctrl-C too: what is done is not lost
        if done:
            yield whole(complete=False)
        raise
    yield whole(complete=True)


def _judge_pairs(
    plan: SeriesPlan, executor: Executor, progress: Progress
) -> Iterator[SeriesOutcome]:
    orders: OrderSearch = LentOrders(plan.last) if plan.align_by == LAST else found_orders
    for number, pair in enumerate(plan.pairs, 1):
        told = _progress_of_pair(progress, f"pair {number} of {len(plan.pairs)}")
        for outcome in judge_way(pair.plan, executor, told, orders=orders):
            if isinstance(outcome, Curves):
                yield JudgedPair(pair, plan.axis, outcome)
            elif isinstance(outcome, Scored) or _is_told(plan, pair):
                yield outcome


def _is_told(plan: SeriesPlan, pair: SeriesPair) -> bool:
    """Return whether it is shown what aligning found: of each pair it is too much, without -v."""
    return plan.align_by == LAST or pair.plan.request.display.verbose > 0


def _progress_of_pair(progress: Progress, where: str) -> Progress:
    return lambda what, done, total: progress(f"{where}: {what}", done, total)


class LentOrders:
    """The orders that align one pair, for all pairs; searched for once, when first asked for."""

    def __init__(self, leader: BarrierPlan) -> None:
        self._leader = leader
        self._found: list[Permutations] | None = None

    def __call__(self, plan: BarrierPlan, choice: Choice, progress: Progress) -> Ordering:
        if self._found is None:
            leader = self._leader
            self._found = yield from found_orders(leader, leader.choice or choice, progress)
        return self._found

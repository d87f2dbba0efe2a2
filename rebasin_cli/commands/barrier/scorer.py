"""Where the mixtures of models are judged, each once, and none that an earlier run has judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.commands.barrier.journal import Journal
from rebasin_cli.commands.barrier.judged_point import (
    CommonWork,
    Ends,
    JudgeTask,
    MixtureModel,
    PointCorrection,
)
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.commands.barrier.scored_points import MixturePoint, Scored
from rebasin_cli.execution.task import Executor
from rebasin_cli.merging.sources import Mean
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.scoring.ensemble import Ensemble, judge_ensemble, why_no_ensemble
from rebasin_cli.progress import Progress

ENSEMBLE = "ensemble"  # the curve that its scores are kept under


@dataclass(frozen=True)
class Segment:
    """Mixtures of the same models, and what their scores depend on besides the weights.

    named: a name for the ends; ends of one name are judged once for all segments. correct: gives
    what is done to each model before it is judged; the ends of such a segment are those of one that
    was judged without. all_moved: the first model has been changed by the alignment, too.
    """

    mixtures: Sequence[MixturePoint]
    ends: Ends
    named: str
    of: Mapping[str, Any]
    correct: Callable[[], PointCorrection] | None = None
    all_moved: bool = False

    def end(self, mixture: MixturePoint) -> str | None:
        """Return a name for a mixture that is one of the models; no permutation moves the first."""
        moved = mixture.end or self.all_moved
        return None if mixture.end is None else f"{self.named if moved else ''} {mixture.end}"


@dataclass
class Scorer:
    """Where mixtures are judged. total: how many there will be, for whoever waits."""

    plan: BarrierPlan
    journal: Journal
    executor: Executor
    progress: Progress
    total: int
    mixed: MixtureModel = field(init=False)
    _ends: dict[str, Scored] = field(default_factory=dict)
    _done: int = 0

    def __post_init__(self) -> None:
        self.mixed = MixtureModel(self.plan, torch.get_num_threads())

    def known(self, segment: Segment) -> bool:
        """Return whether an earlier run has judged all mixtures."""
        return all(self.journal.find(mixture, segment.of) for mixture in segment.mixtures)

    def scored(self, segment: Segment) -> Iterator[Scored]:
        """Yield what the judge says of each mixture, in their order, as soon as it does."""
        left = self._left(segment)
        correction = segment.correct() if segment.correct and left else None
        work = CommonWork(self.mixed, segment.ends, correction)
        judged = self.executor.run([JudgeTask(work, mixture) for mixture in left], self.progress)
        for mixture in segment.mixtures:
            self.progress(f"judging the {mixture}", self._done, self.total)
            scored = self.journal.find(mixture, segment.of)
            if scored is None:
                scored = self._same(segment, mixture) or Scored(mixture, *next(judged), segment.of)
                self.journal.add(scored)
            end = segment.end(mixture)
            if end is not None:
                self._ends.setdefault(end, scored)
            self._done += 1
            yield scored
        self.progress("judged", self._done, self.total)

    def ensemble(self, segment: Segment) -> Ensemble:
        """Return what the ensemble of a segment's two ends is worth; kept like a point."""
        code, machine = self.plan.code, self.plan.machine
        batches = batches_of(code, machine)
        reason = why_no_ensemble(code, batches, self.mixed.model(machine))
        if reason:
            return Ensemble(reason=reason)
        mixture = MixturePoint(ENSEMBLE, (0.5, 0.5))
        known = self.journal.find(mixture, segment.of)
        if known is None:
            self.progress("judging the ensemble", self._done, self.total)
            began = perf_counter()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.plan.request.computing.seed)
                scores = judge_ensemble([*self._ends_of(segment)], batches)
            known = Scored(mixture, scores, perf_counter() - began, segment.of)
            self.journal.add(known)
        return Ensemble(known.scores)

    def _ends_of(self, segment: Segment) -> Iterator[nn.Module]:
        """Yield the models at the ends."""
        network, machine = self.plan.code.network, self.plan.machine
        selects = self.plan.request.selection.selects
        for weights in ((1.0, 0.0), (0.0, 1.0)):
            yield build_network(
                network, Mean(segment.ends.at(machine), weights, 0, selects), machine
            )

    def _left(self, segment: Segment) -> list[MixturePoint]:
        """Return the mixtures without scores so far; an end that occurs twice is listed once."""
        seen, left = set[str | None](self._ends), list[MixturePoint]()
        for mixture in segment.mixtures:
            end = segment.end(mixture)
            if end not in seen and not self.journal.find(mixture, segment.of):
                left.append(mixture)
            if end is not None:
                seen.add(end)
        return left

    def _same(self, segment: Segment, mixture: MixturePoint) -> Scored | None:
        """Return what is known of a mixture as a point of another curve."""
        same = self._ends.get(segment.end(mixture) or "")
        return same and Scored(mixture, same.scores, 0.0, segment.of, reused=True)


def point_correction(plan: BarrierPlan, ends: Ends, progress: Progress) -> PointCorrection:
    """Return what corrects mixtures of models by the plan's method, measured on the plan's data."""
    method, machine = plan.request.renormalize or "", plan.machine
    if method == "reset":
        return PointCorrection(method, {})
    progress("measuring the models", 0, 0)
    models = [build_network(plan.code.network, source, machine) for source in ends.at(machine)]
    batches = batches_of(plan.code, machine)
    known = layer_statistics(models, batches, together=method == "closed-form")
    return PointCorrection(method, known)

"""One model that takes the weights of every mixture in turn, and is judged with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebasin_cli.activations.layer_statistics import LayerStatistics, goals
from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.commands.barrier.journal import Journal
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.commands.barrier.scored_points import MixturePoint, Scored
from rebasin_cli.errors import Problem, UserCodeError
from rebasin_cli.merging.sources import Mean
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.built import batches_of, build_network, judge_of
from rebasin_cli.network.ensemble import Ensemble, judge_ensemble, why_no_ensemble
from rebasin_cli.network.scores import Judge
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import Correcting
from rebasin_cli.renormalization.correction_methods import renormalize
from rebasin_cli.tensors import InMemory, TensorSource

ENSEMBLE = "ensemble"  # the curve that its scores are kept under
Correct = Callable[[nn.Module, MixturePoint], None]


@dataclass(frozen=True)
class Segment:
    """Mixtures that are mixtures of the same sources, and what their scores depend on beside them.

    ends: a name for the ends; where another segment has the same, they are judged only once.
    correct: what is done to the model before it is judged; such a segment has the ends of one that
    was judged without. all_moved: the first model too is another than as it was.
    """

    mixtures: Sequence[MixturePoint]
    sources: Sequence[TensorSource]
    ends: str
    of: Mapping[str, Any]
    correct: Correct | None = None
    all_moved: bool = False

    def end(self, mixture: MixturePoint) -> str | None:
        """Return a name for a mixture that is one of the models; no permutation moves the first."""
        moved = mixture.end or self.all_moved
        return None if mixture.end is None else f"{self.ends if moved else ''} {mixture.end}"


@dataclass
class Scorer:
    """Where mixtures are judged. total: how many there will be, for whoever waits."""

    plan: BarrierPlan
    journal: Journal
    progress: Progress
    total: int
    _model: nn.Module = field(init=False)
    _judge: Judge = field(init=False)
    _ends: dict[str, Scored] = field(default_factory=dict)
    _done: int = 0

    def __post_init__(self) -> None:
        plan = self.plan
        self.progress("building the model", 0, 0)
        self._model = build_network(plan.code.network, plan.models[0], plan.machine)
        self._judge = judge_of(plan.code, plan.machine)

    @property
    def model(self) -> nn.Module:
        return self._model

    def known(self, segment: Segment) -> bool:
        """Return whether an earlier run has judged all mixtures."""
        return all(self.journal.find(mixture, segment.of) for mixture in segment.mixtures)

    def scored(self, segment: Segment) -> Iterator[Scored]:
        """Yield what the judge says of each mixture, as soon as it does."""
        for mixture in segment.mixtures:
            self.progress(f"judging the {mixture}", self._done, self.total)
            scored = self._scored(segment, mixture)
            end = segment.end(mixture)
            if end is not None:
                self._ends.setdefault(end, scored)
            self._done += 1
            yield scored
        self.progress("judged", self._done, self.total)

    def ensemble(self, segment: Segment) -> Ensemble:
        """Return what the ensemble of a segment's two ends is worth; kept like a point."""
        batches = batches_of(self.plan.code, self.plan.machine)
        reason = why_no_ensemble(self.plan.code, batches, self._model)
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
            yield build_network(network, Mean(segment.sources, weights, 0, selects), machine)

    def _scored(self, segment: Segment, mixture: MixturePoint) -> Scored:
        known = self.journal.find(mixture, segment.of)
        if known is not None:
            return known
        same = self._ends.get(segment.end(mixture) or "")
        if same is not None:
            found = Scored(mixture, same.scores, 0.0, segment.of, reused=True)
        else:
            found = self._judged(segment, mixture)
        self.journal.add(found)
        return found

    def _judged(self, segment: Segment, mixture: MixturePoint) -> Scored:
        began = perf_counter()
        mean = Mean(segment.sources, mixture.weights, 0, self.plan.request.selection.selects)
        fill(self._model, mean, self.plan.code.network.windows)
        try:
            if segment.correct is not None:
                segment.correct(self._model, mixture)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.plan.request.computing.seed)
                scores = self._judge(self._model.eval())
        except UserCodeError as error:
            raise UserCodeError(
                *(_placed(problem, mixture) for problem in error.problems)
            ) from error
        return Scored(mixture, scores, perf_counter() - began, segment.of)


def in_memory_if_room(source: TensorSource, plan: BarrierPlan) -> TensorSource:
    """Return a source in memory if there is room, so that no point has to read it again."""
    present = set(source.names())
    names = [name for name in plan.code.network.windows if name in present]
    size = sum(source.info(name).nbytes for name in names)
    if size * 2 * len(plan.models) > plan.machine.max_memory:
        return source
    return InMemory({name: source.load(name) for name in names})


def _placed(problem: Problem, mixture: MixturePoint) -> Problem:
    """Return a problem with the mixture at which it was met."""
    return replace(problem, what=f"at the {mixture}: {problem.what}")


def has_running_statistics(model: nn.Module) -> bool:
    """Return whether a layer keeps statistics of what it has read."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())


def point_corrector(
    plan: BarrierPlan, sources: Sequence[TensorSource], progress: Progress
) -> Correct:
    """Return what corrects a mixture of sources by the plan's method, on the plan's data.

    The sources are measured once, when the first point needs it; what a mixture should do follows
    from its weights.
    """
    batches = batches_of(plan.code, plan.machine)
    how = Correcting(plan.renormalize or "")

    @cache
    def known() -> dict[str, LayerStatistics]:
        if how.method == "reset":
            return {}
        progress("measuring the models", 0, 0)
        models = [build_network(plan.code.network, source, plan.machine) for source in sources]
        return layer_statistics(models, batches, together=how.method == "closed-form")

    def correct(model: nn.Module, mixture: MixturePoint) -> None:
        renormalize(model, goals(known(), mixture.weights), batches, how)

    return correct

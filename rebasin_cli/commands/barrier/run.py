"""Carrying out `rebasin barrier`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from rebasin_cli.commands.barrier.aligned_ends import (
    AlignedOutcome,
    OrderSearch,
    aligned_ends,
    alignment_digest,
    found_orders,
)
from rebasin_cli.commands.barrier.curve import barrier, share_removed, sign
from rebasin_cli.commands.barrier.journal import Journal
from rebasin_cli.commands.barrier.judged_point import (
    Ends,
    PointCorrection,
    has_running_statistics,
    stored_ends,
)
from rebasin_cli.commands.barrier.layers.figures import DiagnosedLayers, diagnose_midpoint
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.commands.barrier.plane import Plane, plane_through
from rebasin_cli.commands.barrier.scored_points import (
    Contour,
    Curves,
    FoundBarrier,
    JudgedPoints,
    MixturePoint,
    Scored,
)
from rebasin_cli.commands.barrier.scorer import Scorer, Segment, point_correction
from rebasin_cli.errors import UsageError
from rebasin_cli.execution.task import Executor
from rebasin_cli.files.provenance import one_basin, one_folded_basin
from rebasin_cli.network.scoring.ensemble import Ensemble
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource

NAIVE, ALIGNED, PLANE = "naive", "aligned", "plane"
# Of the larger of two losses: what float32 sums in another order of units make of one, in a mean
# over a data set and not in the outputs of a model (`tensors.compare`).
SAME_LOSS = 1e-4

BarrierOutcome = AlignedOutcome | Scored | Curves | Contour | DiagnosedLayers


def run_barrier(plan: BarrierPlan, progress: Progress) -> Iterator[BarrierOutcome]:
    """Yield each point as soon as it is judged, what an alignment found, then the whole.

    Where something fails, what was judged until then is yielded as a whole before the exception.
    """
    with plan.workers.executor() as executor:
        yield from judge_way(plan, executor, progress)


def judge_way(
    plan: BarrierPlan,
    executor: Executor,
    progress: Progress,
    *,
    orders: OrderSearch = found_orders,
) -> Iterator[BarrierOutcome]:
    """Yield what `run_barrier` does, judged by an executor that stays open.

    orders: gives the orders of units that align a line's second model to its first.
    """
    record = _Judged(plan, orders)
    judge = _on_plane if plan.plane else _on_line
    try:
        for outcome in judge(plan, record, executor, progress):
            if isinstance(outcome, Scored):
                record.points.append(outcome)
            yield outcome
    except GeneratorExit:
        raise
    except BaseException:  # Ctrl-C too: what is done is not lost
        if record.points:
            yield record.whole(complete=False)
        raise
    yield record.whole(complete=True)
    if plan.request.diagnose and record.ends:
        aligned, ends = plan.choice is not None, record.ends.at(plan.machine)
        yield diagnose_midpoint(plan, ends, progress, aligned=aligned)


@dataclass
class _Judged:
    """What is known so far."""

    plan: BarrierPlan
    orders: OrderSearch
    points: list[Scored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    plane: Plane | None = None
    ensemble: Ensemble | None = None
    ends: Ends | None = None
    began: float = field(default_factory=perf_counter)

    def whole(self, *, complete: bool) -> Curves | Contour:
        """Return all points, with what follows from them."""
        survey = JudgedPoints(
            models=tuple(model.path for model in self.plan.models),
            points=tuple(self.points),
            complete=complete,
            seconds=perf_counter() - self.began,
            notes=(*self.notes, *_changed(self.plan, self.points)),
            hints=tuple(self.hints),
        )
        if self.plane is not None:
            return Contour(survey, self.plane)
        return Curves(survey, _barriers(Curves(survey, ())), self.ensemble)

    def scorer(self, executor: Executor, progress: Progress, total: int) -> Scorer:
        """Return where the points are judged; what is odd about their file is noted."""
        resume = self.plan.request.resume
        journal = Journal(resume)
        if journal.cut:
            self.notes.append(f"the last line of {resume} was cut off: its point is judged again")
        scorer = Scorer(self.plan, journal, executor, progress, total)
        progress("building the model", 0, 0)
        normed = has_running_statistics(scorer.mixed.model(self.plan.machine))
        if self.plan.request.renormalize == "reset" and not normed:
            hint = "--renormalize rescale does without BatchNorm"
            raise UsageError(
                "the model has no BatchNorm whose statistics could be reset", hint=hint
            )
        if self.plan.request.renormalize is None and normed:
            again = "" if self.plan.plane or not self.plan.code.fed else ": --renormalize reset"
            self.hints.append(
                "the model has BatchNorm: little of an alignment shows before its statistics are "
                f"measured anew{again}"
            )
        return scorer


def _on_line(
    plan: BarrierPlan, record: _Judged, executor: Executor, progress: Progress
) -> Iterator[AlignedOutcome | Scored]:
    choice = _choice(plan, record)
    curves = 1 + (choice is not None) + (plan.request.renormalize is not None)
    scorer = record.scorer(executor, progress, curves * len(plan.alphas))
    ends, basis = Ends(partial(stored_ends, plan)), NAIVE
    naive = _segment(plan, NAIVE, ends)
    yield from scorer.scored(naive)
    record.ensemble = scorer.ensemble(naive)
    if choice:
        basis = ALIGNED
        if plan.request.diagnose or not all(scorer.known(later) for later in _later(plan, ends)):
            ends = yield from aligned_ends(plan, choice, ends, progress, orders=record.orders)
        yield from scorer.scored(_segment(plan, ALIGNED, ends))
    record.ends = ends
    if plan.request.renormalize is not None:
        correct = partial(point_correction, plan, ends, progress)
        yield from scorer.scored(_segment(plan, basis, ends, correct))


def _on_plane(
    plan: BarrierPlan, record: _Judged, executor: Executor, progress: Progress
) -> Iterator[AlignedOutcome | Scored]:
    scorer = record.scorer(executor, progress, 3 + plan.steps**2)
    models = Ends(partial(stored_ends, plan))
    choice = _choice(plan, record)
    if choice:
        models = yield from aligned_ends(plan, choice, models, progress)
    sources = models.at(plan.machine)
    plane = record.plane = plane_through(
        sources[0], sources[1], sources[2], _counting(plan, sources[0])
    )
    ends = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    corners = [MixturePoint(PLANE, end, at) for end, at in zip(ends, plane.corners, strict=True)]
    grid = [
        MixturePoint(PLANE, plane.weights(at), at) for at in plane.grid(plan.steps, plan.margin)
    ]
    of = _subject(plan, aligned=plan.choice is not None)
    yield from scorer.scored(Segment([*corners, *grid], models, PLANE, of))


def _choice(plan: BarrierPlan, record: _Judged) -> Choice | None:
    """Return what the models are aligned under; if they are not for a reason, it is noted."""
    together = one_folded_basin if plan.rotation else one_basin
    if plan.choice is not None and together(plan.models):
        record.notes.append(
            "their provenance says that the models lie in one basin: not aligned again"
        )
        return None
    return plan.choice


def _segment(
    plan: BarrierPlan, basis: str, ends: Ends, correct: Callable[[], PointCorrection] | None = None
) -> Segment:
    """Return the line between two models; with `correct`, the curve of corrected points."""
    of = _subject(plan, aligned=basis == ALIGNED)
    name = f"{basis}, {plan.request.renormalize}" if correct else basis
    mixtures = [MixturePoint(name, (1 - alpha, alpha)) for alpha in plan.alphas]
    folded = basis == ALIGNED and plan.rotation is not None
    return Segment(mixtures, ends, basis, of, correct, all_moved=folded)


def _later(plan: BarrierPlan, ends: Ends) -> Iterator[Segment]:
    """Yield the segments for which the models have to be aligned."""
    yield _segment(plan, ALIGNED, ends)
    if plan.request.renormalize is not None:
        yield _segment(
            plan, ALIGNED, ends, lambda: PointCorrection(plan.request.renormalize or "", {})
        )


def _subject(plan: BarrierPlan, *, aligned: bool) -> dict[str, Any]:
    """Return what scores are of: two points with the same have the same scores."""
    request = plan.request
    arguments = {"model_args": dict(request.tracing.arguments)} if request.tracing.arguments else {}
    return {
        "models": [model.sha256() for model in plan.models],
        "model": request.tracing.target,
        **arguments,
        "data": request.data.data,
        "evaluate": request.data.evaluate,
        "batches": request.data.batches,
        "seed": request.computing.seed,
        "tensors": [list(request.selection.only), list(request.selection.skip)],
        **({"alignment": alignment_digest(plan, plan.choice)} if aligned and plan.choice else {}),
    }


def _counting(plan: BarrierPlan, source: TensorSource) -> list[str]:
    """Return the tensors that span the plane: the voting ones, else all floating ones."""
    if plan.choice is not None:
        voting = (tensor.members for tensor in plan.choice.bound.tensors if tensor.votes)
        present = set(source.names())
        return [name for members in voting for name in members if name in present]
    selects = plan.request.selection.selects
    return [n for n in source.names() if source.info(n).floating and selects(n)]


def _barriers(curves: Curves) -> tuple[FoundBarrier, ...]:
    """Return the barrier of every curve that has both ends, by every score with a direction."""
    found: list[FoundBarrier] = []
    for score in (name for name in curves.survey.scores if sign(name)):
        naive = None
        for name in curves.names:
            values = curves.curve(name, score)
            if not {0.0, 1.0} <= values.keys():
                continue
            here = barrier(values, sign=sign(score))
            naive = here if naive is None else naive
            if here is naive:
                found.append(FoundBarrier(name, score, here))
                continue
            gone = share_removed(naive.chord, here.chord), share_removed(naive.mean, here.mean)
            found.append(FoundBarrier(name, score, here, *gone))
    return tuple(found)


def _changed(plan: BarrierPlan, points: Sequence[Scored]) -> Iterator[str]:
    """Yield a warning if a model is another function once its units are moved."""
    if plan.rotation is not None and plan.rotation.ties_a_head:  # told where it is folded
        return
    for number, model in enumerate(("first", "second")):
        ends = {
            p.mixture.curve: p.scores
            for p in points
            if p.mixture.at is None and p.mixture.end == number
        }
        before, after = ends.get(NAIVE, {}), ends.get(ALIGNED, {})
        for name in (name for name in before if sign(name) > 0 and name in after):
            old, new = before[name], after[name]
            if abs(old - new) > SAME_LOSS * max(abs(old), abs(new)):
                yield (
                    f"the {name} of the {model} model was {old:.6g} and is {new:.6g} once "
                    "aligned: the spec is wrong, or it is not the same each time it is computed"
                )

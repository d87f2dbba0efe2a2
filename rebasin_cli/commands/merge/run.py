"""Carrying out `rebasin merge`: align, then average tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.merge.common_frame import ModelsInFrame, bring_into_frame
from rebasin_cli.commands.merge.merged import Merged
from rebasin_cli.commands.merge.plan import MeanPlan, MergePlan
from rebasin_cli.commands.merge.saved_parents import save_parent
from rebasin_cli.files.provenance import basin_of, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.matching.many.match_many import (
    Recall,
    match_anew,
)
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import CorrectionReport
from rebasin_cli.renormalization.plan import has_batch_norm
from rebasin_cli.renormalization.run import Parents, correct_if_planned
from rebasin_cli.tensors import TensorSource

REASONS = {
    "none": "the models are {done} as they are",
    "base": "each model was aligned to the base",
    "star": "each model was aligned to the reference",
    "rotated": "each model was aligned to the folded reference by orthogonal maps",
    "rotated to the mean": "each model was aligned to the mean of the others by orthogonal maps",
    "many": "each model was aligned to the others in turn",
    "universe": "all models were aligned to one another at once",
    "sync": "the models were aligned pair by pair, and the pairs reconciled",
    "sync-sweeps": "the models were aligned pair by pair, and the pairs reconciled in every sweep",
    "shared": "their provenance says that they lie in one basin already: {done} as they are",
}


@dataclass(frozen=True)
class MadeModel:
    """What is made of models in one frame. report: how its statistics were corrected, if they were.

    complete: adds to the outcome what the method tells, once the file is written.
    """

    result: Result
    report: CorrectionReport | None
    complete: Callable[[Merged], Merged] = lambda outcome: outcome


def run_merge(
    plan: MergePlan, progress: Progress, *, recall: Recall = match_anew
) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model. recall: see `ManyRequest`."""
    yield from run_making(plan, partial(_make_average, plan), progress, recall=recall)


def run_making(
    plan: MergePlan,
    make: Callable[[ModelsInFrame, Progress], MadeModel],
    progress: Progress,
    *,
    recall: Recall = match_anew,
) -> Iterator[LeftAsIs | Merged]:
    """Bring the models of a plan together, write what is made of them, and yield it."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    together = bring_into_frame(plan, progress, recall=recall)
    save_parents(plan, together, progress)
    made = make(together, progress)
    progress(f"writing {plan.target.path.name}", 0, 0)
    written = write_result(
        made.result, plan.target, plan.request, inputs=plan.mixture.merged, found=together.found
    )
    outcome = merged_outcome(plan, together, written, perf_counter() - began)
    stale = made.report is None and has_batch_norm(plan.models[0])
    yield made.complete(replace(outcome, report=made.report, stale=stale))


def _make_average(plan: MergePlan, together: ModelsInFrame, progress: Progress) -> MadeModel:
    source, report = _corrected_mean(plan, together, progress)
    more = {"renormalized": report.method} if report else {}
    facts, parts = merge_facts(plan, together, **more), together.parts if report is None else None
    return MadeModel(Result(source, plan.models[0], facts, parts), report)


def merge_facts(plan: MeanPlan, together: ModelsInFrame, **facts: object) -> dict[str, str]:
    """Return the provenance of what is made of the models."""
    return provenance(
        "merge",
        plan.mixture.merged,
        basin=_basin(plan, together),
        spec=plan.choice.name if plan.choice else None,
        seed=plan.request.computing.seed,
        jobs=plan.machine.jobs,
        strategy=together.strategy,
        weights=list(plan.mixture.weights.models),
        **plan.mixture.facts(),
        **facts,
    )


def running_facts(plan: MeanPlan, method: str, **facts: Any) -> dict[str, str]:
    """Return the provenance of what a method made by running models: of no parent's basin."""
    return provenance(
        "merge",
        plan.models,
        basin=None,
        spec=plan.choice.name if plan.choice else None,
        seed=plan.request.computing.seed,
        strategy=plan.strategy,
        weights=list(plan.mixture.weights.models),
        method=method,
        **facts,
    )


def save_parents(plan: MergePlan, together: ModelsInFrame, progress: Progress) -> None:
    """Write each model with its units in the merged order, if --save-parents asks for that."""
    reference = plan.models[plan.reference]
    for number, target in enumerate(plan.parents):
        progress(f"writing {target.path.name}", number, len(plan.parents))
        model = plan.mixture.merged[number]
        facts = provenance(
            "merge",
            [reference, model] if model is not reference else [reference],
            basin=_basin(plan, together),
            spec=plan.choice.name if plan.choice else None,
            seed=plan.request.computing.seed,
            jobs=plan.machine.jobs,
            strategy=together.strategy,
        )
        order = plan.tensors, together.alignment.permutations[number]
        save_parent(model, target, order, plan.request, facts)


def _basin(plan: MeanPlan, together: ModelsInFrame) -> str | None:
    """Return the basin that the aligned models lie in, None if it is unknown."""
    whole = plan.choice is not None and plan.choice.whole
    near = together.shared or (whole and together.strategy != "none")
    return basin_of(plan.models[plan.reference]) if near else None


def merged_outcome(
    plan: MergePlan, together: ModelsInFrame, written: Written, seconds: float
) -> Merged:
    """Return what merging the models of a plan came to."""
    searched = plan.choice if not together.shared else None
    return Merged(
        models=tuple(model.path for model in plan.mixture.merged),
        weights=plan.mixture.weights.models,
        combination=plan.mixture.describe(),
        reference=plan.models[plan.reference].path,
        strategy=together.strategy,
        reason=_reason(plan, together),
        aligned=together.moved,
        spec=searched.name if searched else None,
        objective=together.objective,
        rounds=together.alignment.rounds,
        converged=together.alignment.converged,
        torn=together.alignment.torn,
        written=written,
        seconds=seconds,
        alike=searched.alike if searched else (),
        function=together.function,
        parents=tuple(target.path for target in plan.parents),
    )


def _reason(plan: MergePlan, together: ModelsInFrame) -> str:
    """Return in plain words how the models came to lie as they were averaged."""
    done = plan.mixture.done
    if together.shared or together.strategy == "none" or together.moved or plan.choice is None:
        to_base = together.strategy == "star" and plan.mixture.base is not None
        key = "shared" if together.shared else "base" if to_base else together.strategy
        return REASONS[key].format(done=done)
    groups = plan.choice.bound.groups.values()
    free = any(not group.fixed and group.root in plan.choice.movable for group in groups)
    why = (
        "no better order of units was found"
        if free
        else "nothing could be aligned, no group may move"
    )
    return f"{why}: {done} as they are"


def _corrected_mean(
    plan: MergePlan, together: ModelsInFrame, progress: Progress
) -> tuple[TensorSource, CorrectionReport | None]:
    """Return the mean with its statistics corrected, if that is planned, and what was done."""
    bound = plan.choice.bound if plan.choice else None
    return correct_if_planned(
        together.mean,
        Parents(together.sources[: len(plan.mixture.merged)], plan.mixture.weights.models, bound),
        plan=plan.correction,
        machine=plan.machine,
        progress=progress,
    )

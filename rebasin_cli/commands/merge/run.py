"""Carrying out `rebasin merge`: align, then average tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.alignment.model_card import Found
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.merge.merged import Merged
from rebasin_cli.commands.merge.plan import MeanPlan, MergePlan
from rebasin_cli.commands.merge.saved_parents import save_parent
from rebasin_cli.files.part_sources import Parts, finite, finite_part
from rebasin_cli.files.provenance import basin_of, one_basin, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.matching.many.match_many import (
    Alignment,
    Recall,
    Request,
    at_once,
    pair_objective,
)
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.merging.overlap import CommonPart, Completed
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import Report
from rebasin_cli.renormalization.plan import has_batch_norm
from rebasin_cli.renormalization.run import Parents, correct_statistics
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
class Together:
    """The models of a plan in one frame. sources: in the order of the plan; mean: what they make.

    parts: the same of what lies beside the weights. shared: their provenance says that they lay in
    one basin, so nothing was searched. function: of the model whose outputs its permutation moves
    the most.
    """

    sources: Sequence[TensorSource]
    mean: TensorSource
    parts: Parts
    strategy: str
    shared: bool
    alignment: Alignment
    objective: Change | None
    function: FunctionDifference | None = None

    @property
    def found(self) -> Found:
        """What a model card tells of the alignment."""
        return Found(self.objective, self.function)

    @property
    def moved(self) -> bool:
        """Whether a unit of any model changed place."""
        return any(p.moved for model in self.alignment.permutations for p in model.values())


def run_merge(
    plan: MergePlan, progress: Progress, *, recall: Recall = at_once
) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model. recall: see `Request`."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    together = brought_together(plan, progress, recall=recall)
    save_parents(plan, together, progress)
    source, report = _renormalized(plan, together, progress)
    more = {"renormalized": report.method} if report else {}
    facts = merge_facts(plan, together, **more)
    progress(f"writing {plan.target.path.name}", 0, 0)
    result = Result(source, plan.models[0], facts, together.parts if report is None else None)
    written = write_result(
        result, plan.target, plan.request, inputs=plan.mixture.merged, found=together.found
    )
    outcome = merged_outcome(plan, together, written, perf_counter() - began)
    stale = report is None and has_batch_norm(plan.models[0])
    yield replace(outcome, report=report, stale=stale)


def brought_together(plan: MeanPlan, progress: Progress, *, recall: Recall = at_once) -> Together:
    """Return the models in one frame, aligned by the strategy of the plan if they have to be."""
    shared = plan.chosen and one_basin(plan.models)
    strategy = "none" if shared else plan.strategy
    sources = [
        CommonPart(finite(model, plan.request.selection), overlap)
        for model, overlap in zip(plan.models, plan.overlaps, strict=True)
    ]
    alignment, objective = _align(plan, sources, strategy, progress, recall)

    def part(key: str) -> TensorSource:
        own = [
            CommonPart(finite_part(model, key, plan.tensors, plan.request.selection), overlap)
            for model, overlap in zip(plan.models, plan.overlaps, strict=True)
        ]
        return _mean(plan, _completed(plan, _aligned(plan, own, alignment)))

    aligned = _aligned(plan, sources, alignment)
    function = _checked(plan, aligned, alignment, progress)
    whole = _completed(plan, aligned)
    mean = _mean(plan, whole)
    return Together(whole, mean, part, strategy, shared, alignment, objective, function)


def _completed(plan: MeanPlan, aligned: Sequence[TensorSource]) -> list[TensorSource]:
    """Return aligned models with the rest of the first one where they have something in common."""
    pairs = zip(aligned, plan.overlaps, strict=True)
    return [Completed(source, aligned[0], overlap) for source, overlap in pairs]


def _mean(plan: MeanPlan, sources: Sequence[TensorSource]) -> TensorSource:
    selects = plan.request.selection.selects
    return plan.mixture.combined(sources, plan.reference, selects)


def _checked(
    plan: MeanPlan, aligned: Sequence[TensorSource], alignment: Alignment, progress: Progress
) -> FunctionDifference | None:
    """Return how far the outputs of a model move at most; raises if one is another function."""
    found: list[FunctionDifference] = []
    for model, source, permutations, overlap in zip(
        plan.models, aligned, alignment.permutations, plan.overlaps, strict=True
    ):
        if any(permutation.moved for permutation in permutations.values()) and not overlap:
            progress("checking functions", len(found), len(plan.models))
            one = check_function(plan.check, model, source, where=str(model.path))
            found += [one] if one else []
    return max(found, key=lambda one: one.difference, default=None)


def merge_facts(plan: MeanPlan, together: Together, **facts: object) -> dict[str, str]:
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


def save_parents(plan: MergePlan, together: Together, progress: Progress) -> None:
    """Write the models in the order of units that they are merged in, if that is asked for."""
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


def _basin(plan: MeanPlan, together: Together) -> str | None:
    """Return the basin that the models of a plan now lie in, None if that is not known."""
    whole = plan.choice is not None and plan.choice.whole
    near = together.shared or (whole and together.strategy != "none")
    return basin_of(plan.models[plan.reference]) if near else None


def merged_outcome(plan: MergePlan, together: Together, written: Written, seconds: float) -> Merged:
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


def _reason(plan: MergePlan, together: Together) -> str:
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


def _renormalized(
    plan: MergePlan, together: Together, progress: Progress
) -> tuple[TensorSource, Report | None]:
    """Return the mean with its statistics corrected, if that is planned, and what was done."""
    if plan.correction is None:
        return together.mean, None
    bound = plan.choice.bound if plan.choice else None
    return correct_statistics(
        together.mean,
        Parents(together.sources[: len(plan.mixture.merged)], plan.mixture.weights.models, bound),
        plan=plan.correction,
        machine=plan.machine,
        progress=progress,
    )


def _align(
    plan: MeanPlan,
    sources: Sequence[TensorSource],
    strategy: str,
    progress: Progress,
    recall: Recall,
) -> tuple[Alignment, Change | None]:
    """Return the models' permutations, and the sum of pair objectives before and after."""
    if plan.choice is None or strategy == "none":
        return Alignment(tuple({} for _ in plan.models)), None
    request = Request(
        sources=sources,
        bound=plan.choice.bound,
        settings=plan.machine.settings(plan.request.search),
        reference=plan.reference,
        movable=plan.choice.movable,
        labels=[str(model.path) for model in plan.models],
        progress=progress,
        recall=recall,
        sync_method=plan.request.sync_method or "spectral",
    )
    alignment = STRATEGIES[strategy](request)
    before = pair_objective(request, STRATEGIES["none"](request).permutations)
    return alignment, Change(before, pair_objective(request, alignment.permutations))


def _aligned(
    plan: MeanPlan, sources: Sequence[TensorSource], alignment: Alignment
) -> Sequence[TensorSource]:
    if plan.choice is None:
        return sources
    tensors = plan.choice.bound.tensors
    pairs = zip(sources, alignment.permutations, strict=True)
    return [Permuted(source, tensors, permutations) for source, permutations in pairs]

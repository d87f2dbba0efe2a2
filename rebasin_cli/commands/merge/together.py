"""The models of a merge brought into one frame, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.alignment.model_card import Found
from rebasin_cli.commands.merge.plan import MeanPlan
from rebasin_cli.files.part_sources import Parts, finite_model, finite_part
from rebasin_cli.files.provenance import one_basin
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
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource


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


def brought_together(plan: MeanPlan, progress: Progress, *, recall: Recall = at_once) -> Together:
    """Return the models in one frame, aligned by the strategy of the plan if they have to be."""
    shared = plan.chosen and one_basin(plan.models)
    strategy = "none" if shared else plan.strategy
    sources = [
        CommonPart(finite_model(model, plan.request.selection), overlap)
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

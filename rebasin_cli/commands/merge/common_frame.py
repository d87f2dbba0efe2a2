"""The models of a merge brought into one frame (one order of units), and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.alignment.model_card import CardFacts
from rebasin_cli.commands.merge.plan import MeanPlan
from rebasin_cli.files.part_sources import Parts, finite_model, finite_part
from rebasin_cli.files.provenance import one_basin
from rebasin_cli.matching.many.match_many import (
    Alignment,
    ManyRequest,
    Recall,
    match_anew,
    pair_objective,
)
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.merging.overlap import CommonPart, Completed
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class ModelsInFrame:
    """The models of a plan in one frame, and what is made of them.

    sources: the models, in the order of the plan. mean: what combining them gives. parts: the same
    for the other sets of weights in the files, such as running averages. shared: the models'
    provenance says that they lay in one basin, so nothing was searched. objective: the sum over
    pairs of models, before and after. function: of all models that were run, the difference of the
    one whose outputs moved most.
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
    def found(self) -> CardFacts:
        """What a model card tells of the alignment."""
        return CardFacts(self.objective, self.function)

    @property
    def moved(self) -> bool:
        """Whether a unit of any model changed place."""
        return any(p.moved for model in self.alignment.permutations for p in model.values())


def bring_into_frame(
    plan: MeanPlan, progress: Progress, *, recall: Recall = match_anew
) -> ModelsInFrame:
    """Return the models in one frame. Those that lie in one basin already are not aligned again.

    recall: see `ManyRequest`. Raises PermutationError if a reordered model computes something else.
    """
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
        return _combined_model(
            plan, _completed_models(plan, _permuted_models(plan, own, alignment))
        )

    aligned = _permuted_models(plan, sources, alignment)
    function = _check_functions(plan, aligned, alignment, progress)
    whole = _completed_models(plan, aligned)
    mean = _combined_model(plan, whole)
    return ModelsInFrame(whole, mean, part, strategy, shared, alignment, objective, function)


def _completed_models(plan: MeanPlan, aligned: Sequence[TensorSource]) -> list[TensorSource]:
    """Return models of the first one's shapes: what only the first has is filled in from it."""
    pairs = zip(aligned, plan.overlaps, strict=True)
    return [Completed(source, aligned[0], overlap) for source, overlap in pairs]


def _combined_model(plan: MeanPlan, sources: Sequence[TensorSource]) -> TensorSource:
    selects = plan.request.selection.selects
    return plan.mixture.combined(sources, plan.reference, selects)


def _check_functions(
    plan: MeanPlan, aligned: Sequence[TensorSource], alignment: Alignment, progress: Progress
) -> FunctionDifference | None:
    """Return the largest difference of outputs; PermutationError if a function has changed."""
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
    request = ManyRequest(
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


def _permuted_models(
    plan: MeanPlan, sources: Sequence[TensorSource], alignment: Alignment
) -> Sequence[TensorSource]:
    if plan.choice is None:
        return sources
    tensors = plan.choice.bound.tensors
    pairs = zip(sources, alignment.permutations, strict=True)
    return [Permuted(source, tensors, permutations) for source, permutations in pairs]

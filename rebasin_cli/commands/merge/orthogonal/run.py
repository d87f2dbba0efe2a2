"""Carrying out `rebasin merge --symmetry orthogonal`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.model_card import CardFacts
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.merge.merged import Merged
from rebasin_cli.commands.merge.orthogonal.plan import STAR, UNIVERSE, RotatedMergePlan
from rebasin_cli.commands.merge.orthogonal.universe import ROUNDS, match_universe
from rebasin_cli.commands.merge.run import REASONS
from rebasin_cli.files.part_sources import finite_model, finite_part
from rebasin_cli.files.provenance import folded_basin, one_folded_basin, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_models import (
    FrameMatching,
    RotatedModels,
    match_star,
    rotate_models,
)
from rebasin_cli.folding.rotated_outcome import Rotated
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource

MATCHINGS: Mapping[str, FrameMatching] = {STAR: match_star, UNIVERSE: match_universe}
ALIGNED = {STAR: "rotated", UNIVERSE: "rotated to the mean"}  # keys of REASONS


def run_rotated_merge(
    plan: RotatedMergePlan, progress: Progress
) -> Iterator[LeftAsIs | Folded | Rotated | Merged]:
    """Yield what became of the reference and of each model, then the merged model.

    Models that lie in one basin, all of them folded, are averaged as they are, unless --strategy
    asks for more.
    """
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began, models = perf_counter(), plan.problem.models
    sources = [finite_model(model, plan.request.selection) for model in models]
    rotated = None
    if plan.request.strategy is not None or not one_folded_basin(models):
        rotated = rotate_models(
            plan.problem,
            sources,
            progress,
            reference=plan.reference,
            matching=MATCHINGS[plan.strategy],
            code=plan.code,
        )
        yield from rotated.found
    written = _write(plan, rotated, sources, progress)
    yield _outcome(plan, written, perf_counter() - began, shared=rotated is None)


def _write(
    plan: RotatedMergePlan,
    rotated: RotatedModels | None,
    sources: Sequence[TensorSource],
    progress: Progress,
) -> Written:
    """Write the mean of the models, and of the parts beside their weights, in one frame."""
    models, choice, selection = plan.problem.models, plan.problem.choice, plan.request.selection

    def mean(own: Sequence[TensorSource]) -> TensorSource:
        moved = rotated.moved(own) if rotated else own
        return plan.mixture.combined(moved, plan.reference, selection.selects)

    def part(key: str) -> TensorSource:
        return mean([finite_part(model, key, choice.bound.tensors, selection) for model in models])

    facts = provenance(
        "merge",
        plan.mixture.merged,
        basin=folded_basin(models[plan.reference]),
        spec=choice.name,
        seed=plan.request.computing.seed,
        jobs=plan.problem.machine.jobs,
        strategy=plan.strategy if rotated else "none",
        weights=list(plan.mixture.weights.models),
        **plan.mixture.facts(),
        **plan.problem.facts,
    )
    progress(f"writing {plan.target.path.name}", 0, 0)
    result = Result(mean(sources), models[0], facts, part)
    found = CardFacts(function=_farthest(rotated) if rotated else None)
    return write_result(result, plan.target, plan.request, inputs=plan.mixture.merged, found=found)


def _farthest(rotated: RotatedModels) -> FunctionDifference | None:
    """Return how far the outputs of a model move at most."""
    found = [one.function for one in rotated.found if one.function]
    return max(found, key=lambda one: one.difference, default=None)


def _outcome(plan: RotatedMergePlan, written: Written, seconds: float, *, shared: bool) -> Merged:
    models = plan.problem.models
    return Merged(
        models=tuple(model.path for model in plan.mixture.merged),
        weights=plan.mixture.weights.models,
        combination=plan.mixture.describe(),
        reference=models[plan.reference].path,
        strategy="none" if shared else plan.strategy,
        reason=REASONS["shared" if shared else ALIGNED[plan.strategy]].format(
            done=plan.mixture.done
        ),
        spec=None if shared else plan.problem.choice.name,
        objective=None,
        rounds=0 if shared else 1 + ROUNDS * (plan.strategy == UNIVERSE),
        converged=True,
        written=written,
        seconds=seconds,
        aligned=not shared,
    )

"""Carrying out `rebasin merge`: align, then average tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.matching import STRATEGIES, Alignment, Change, Request, pair_objective
from rebasin_cli.merging import Finite, Mean
from rebasin_cli.permutation import Permuted
from rebasin_cli.plan.merge import MergePlan
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.outcome import Kept, Merged
from rebasin_cli.progress import Progress
from rebasin_cli.run.output import write_model
from rebasin_cli.run.provenance import basin_of, one_basin, provenance
from rebasin_cli.tensors import TensorSource

REASONS = {
    "none": "the models are averaged as they are",
    "star": "each model was aligned to the reference",
    "many": "each model was aligned to the others in turn",
    "universe": "all models were aligned to one another at once",
    "sync": "the models were aligned pair by pair, and the pairs reconciled",
    "shared": "their provenance says that they lie in one basin already: averaged as they are",
}


def run_merge(plan: MergePlan, progress: Progress) -> Iterator[Kept | Merged]:
    """Yield the merged model."""
    if plan.target.place.skip:
        yield Kept("merge", plan.target.path, "exists")
        return
    began = perf_counter()
    shared = plan.chosen and one_basin(plan.models)
    strategy = "none" if shared else plan.strategy
    sources = [finite(model, plan.options) for model in plan.models]
    alignment, objective = _align(plan, sources, strategy, progress)
    reference = plan.models[plan.reference]
    aligned = _aligned(plan, sources, alignment)
    mean = Mean(aligned, plan.weights, plan.reference, plan.options.selects)
    whole = plan.choice is not None and plan.choice.whole(plan.options)
    facts = provenance(
        "merge",
        plan.models,
        basin=basin_of(reference) if shared or (whole and strategy != "none") else None,
        spec=plan.choice.name if plan.choice else None,
        seed=plan.options.seed,
        strategy=strategy,
        weights=list(plan.weights),
    )
    progress(f"writing {plan.target.path.name}", 0, 0)
    yield Merged(
        models=tuple(model.path for model in plan.models),
        weights=plan.weights,
        reference=reference.path,
        strategy=strategy,
        reason=REASONS["shared" if shared else strategy],
        spec=plan.choice.name if plan.choice and not shared else None,
        objective=objective,
        rounds=alignment.rounds,
        converged=alignment.converged,
        torn=alignment.torn,
        written=write_model(mean, plan.models[0], plan.target, plan.options, facts),
        seconds=perf_counter() - began,
        alike=plan.choice.alike if plan.choice and not shared else (),
    )


def _align(
    plan: MergePlan, sources: Sequence[TensorSource], strategy: str, progress: Progress
) -> tuple[Alignment, Change | None]:
    """Return the models' permutations, and the sum of pair objectives before and after."""
    if plan.choice is None or strategy == "none":
        return Alignment(tuple({} for _ in plan.models)), None
    request = Request(
        sources=sources,
        bound=plan.choice.bound,
        settings=plan.machine.settings(plan.options),
        reference=plan.reference,
        movable=plan.choice.movable(plan.options),
        labels=[str(model.path) for model in plan.models],
        progress=progress,
    )
    alignment = STRATEGIES[strategy](request)
    before = pair_objective(request, STRATEGIES["none"](request).permutations)
    return alignment, Change(before, pair_objective(request, alignment.permutations))


def _aligned(
    plan: MergePlan, sources: Sequence[TensorSource], alignment: Alignment
) -> Sequence[TensorSource]:
    if plan.choice is None:
        return sources
    tensors = plan.choice.bound.tensors
    pairs = zip(sources, alignment.permutations, strict=True)
    return [Permuted(source, tensors, permutations) for source, permutations in pairs]


def finite(model: Checkpoint, options: Options) -> Finite:
    """Return a model that refuses to give NaN or infinity to an average."""
    hint = "repair the checkpoint, or keep the tensor out of the average with --skip"
    return Finite(model, str(model.path), hint, options.selects)

"""Carrying out `rebasin renormalize`: align the parents, measure, correct, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter

from rebasin_cli.alignment.match import match_models
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.renormalize.measured_parents import check_measured, measured_files
from rebasin_cli.commands.renormalize.plan import (
    Parent,
    Renormalized,
    RenormalizePlan,
)
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.files.provenance import KEY, basin_of, one_basin, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.json_text import read_json
from rebasin_cli.options.search import Search
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.run import Parents, correct_statistics
from rebasin_cli.tensors import TensorSource

ASSUMED = "that activations are ReLU-like is assumed: a spec does not show them"


def run_renormalize(plan: RenormalizePlan, progress: Progress) -> Iterator[LeftAsIs | Renormalized]:
    """Yield the corrected model."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    check_measured(plan)
    weights = plan.weights or recorded_weights(plan.model, _digests(plan))
    placed = [_bring_parent(plan, parent, progress) for parent in plan.parents]
    bound = plan.choice.bound if plan.choice else None
    source, report = correct_statistics(
        finite_model(plan.model, plan.request.selection),
        Parents([source for source, _ in placed], weights, bound),
        plan=plan.correction,
        machine=plan.machine,
        progress=progress,
    )
    moved = any(how == _ALIGNED for _, how in placed)
    spec = plan.choice.name if plan.choice and moved else None
    by_spec = report.method == "calibrate" and plan.correction.code is None
    progress(f"writing {plan.target.path.name}", 0, 0)
    facts = _facts(plan, spec, report.method, weights)
    yield Renormalized(
        model=plan.model.path,
        parents=tuple(
            Parent(parent.path, weight, how)
            for parent, weight, (_, how) in zip(
                plan.parents, weights[: len(placed)], placed, strict=True
            )
        ),
        report=report,
        spec=spec,
        assumed=ASSUMED if by_spec else "",
        written=write_result(Result(source, plan.model, facts), plan.target, plan.request),
        seconds=perf_counter() - began,
    )


def _facts(
    plan: RenormalizePlan, spec: str | None, method: str, weights: Sequence[float]
) -> dict[str, str]:
    """Return the provenance of the corrected model. spec: that parents were aligned under."""
    return provenance(
        "renormalize",
        [plan.model, *plan.parents],
        basin=basin_of(plan.model),
        spec=spec,
        seed=plan.request.computing.seed,
        method=method,
        weights=list(weights),
    )


_ALIGNED, _THERE, _TRUSTED = "aligned to it", "there already, by its provenance", "as it is"


def _bring_parent(
    plan: RenormalizePlan, parent: Checkpoint, progress: Progress
) -> tuple[TensorSource, str]:
    """Return a parent in the basin of the merged model, and how it came there."""
    source = finite_model(parent, plan.request.selection)
    if not plan.request.align or plan.choice is None:
        return source, _TRUSTED
    if one_basin([plan.model, parent]):
        return source, _THERE
    found = match_models(plan.model, parent, plan.choice, plan.machine, Search(), progress=progress)
    return Permuted(source, plan.choice.bound.tensors, found.permutations), _ALIGNED


def _digests(plan: RenormalizePlan) -> list[str]:
    """Return the digests of the parents: of those given, else of those in the statistics."""
    named = [parent.sha256() for parent in plan.parents or plan.measured]
    return named or [digest for digest in measured_files(plan) if digest]


def recorded_weights(model: Checkpoint, digests: Sequence[str]) -> tuple[float, ...]:
    """Return the weights with which a model was merged from files; else equal ones.

    They are known if its provenance has the digests of all of them.
    """
    equal = (1.0,) * len(digests)
    try:
        record = read_json(model.metadata.get(KEY, "null"))
        inputs = [str(entry["sha256"]) for entry in record["inputs"]]
        given = record["weights"] if "weights" in record else _weights_on_line(record["alpha"])
        known = dict(zip(inputs, map(float, given), strict=True))
    except (ValueError, TypeError, KeyError):  # written by others, or not at all
        return equal
    return tuple(known[d] for d in digests) if set(digests) == known.keys() else equal


def _weights_on_line(alpha: float) -> tuple[float, float]:
    return 1 - alpha, alpha

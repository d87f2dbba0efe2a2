"""Matching the units of two models by what they do on data."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.activations.measured_model import MeasuredModel
from rebasin_cli.activations.statistics_file import Statistics, load_units
from rebasin_cli.activations.units import UnitMoments
from rebasin_cli.alignment.unit_pair import UnitPair
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.plan import AlignItem, AlignPlan
from rebasin_cli.errors import CheckpointError
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.progress import Progress


def by_activations(plan: AlignPlan, item: AlignItem, progress: Progress) -> Matching:
    """Return the matching of an item's model to the reference, from their activations.

    Raises CheckpointError for statistics of other models, and as `match_units` does.
    """
    if plan.inputs.statistics is not None:
        return match_units(plan, item, _stored(plan, plan.inputs.statistics, item), progress)
    assert plan.inputs.code is not None, "the plan has seen to it"
    pair = plan.reference, item.model
    batches = data_of(plan.inputs.code, pair, plan.machine, progress)
    units = observe_units(plan, item, batches, progress)
    return match_units(plan, item, units, progress)


def match_units(
    plan: AlignPlan, item: AlignItem, units: Sequence[UnitMoments], progress: Progress
) -> Matching:
    """Return the matching of an item's model to the reference, from what the units of both do."""
    return _pair(plan, item).match(units, plan.request.search, progress)


def observe_units(
    plan: AlignPlan, item: AlignItem, batches: Batches, progress: Progress
) -> Sequence[UnitMoments]:
    """Return what the units of the two models do on some batches."""
    assert plan.inputs.code is not None, "the plan has seen to it"
    network, request = plan.inputs.code.network, plan.request
    return _pair(plan, item).observe(network, batches, request.selection, request.tracing, progress)


def _pair(plan: AlignPlan, item: AlignItem) -> UnitPair:
    chosen = plan.request.activations
    return UnitPair(plan.reference, item.model, plan.choice, plan.machine, chosen)


def _stored(plan: AlignPlan, statistics: Statistics, item: AlignItem) -> Sequence[UnitMoments]:
    """Return what a file says of the two models, whichever of them it has first."""
    pair = plan.reference, item.model
    known = [statistics.known(model) for model in pair]
    units = load_units(statistics)
    if statistics.are_of(*known):
        return units
    if statistics.are_of(*known[::-1]):
        return [one.swapped for one in units]
    if not plan.request.tracing.trust:
        said = zip(pair, known, strict=True)
        raise CheckpointError(
            "the statistics are of other checkpoints",
            where=str(statistics.path),
            detail="\n".join(_unknown(model, one, statistics) for model, one in said),
            hint=f"rebasin statistics {plan.reference.path} {item.model.path}; "
            "--trust uses them all the same",
        )
    return units


def _unknown(model: Checkpoint, known: MeasuredModel, statistics: Statistics) -> str:
    there = "is" if statistics.tell_of(known) else "is not"
    return f"{model.path} (sha256 {model.sha256()[:12]}) {there} in it"

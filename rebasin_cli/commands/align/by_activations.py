"""Matching the units of two models by what they do on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebasin_cli.activations.observe import check_room, units_on
from rebasin_cli.activations.statistics_file import Statistics, load_units
from rebasin_cli.activations.units import SIMILARITIES, UnitMoments
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.plan import AlignItem, AlignPlan
from rebasin_cli.errors import CheckpointError, SpecError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.matching.match_activations import (
    Alike,
    Models,
    covered_roots,
    match_activations,
    telling,
)
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.traced import fit_traced_model
from rebasin_cli.tracer.points.points import kind


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
    """Return the matching of an item's model to the reference, from what the units of both do.

    Raises SpecError if none of the groups of the spec is told of.
    """
    bound, chosen = plan.choice.bound, plan.request.activations
    similarity = SIMILARITIES[chosen.similarity]
    alike = [Alike(u.dims, similarity(u.cross).cpu()) for u in units if _fits(u, bound)]
    told = telling(bound, alike)
    if not told:
        raise SpecError(
            f"no activations tell of a group of {plan.choice.name}",
            detail=f"its groups are {', '.join(bound.groups)}",
            hint="the groups need the names that `rebasin spec trace` gives them: leave out --spec",
        )
    found = match_activations(
        Models(
            plan.reference,
            item.model,
            bound,
            plan.choice.movable,
            (str(plan.reference.path), str(item.model.path)),
        ),
        told,
        replace(plan.machine.settings(plan.request.search), method="auto"),
        mix=chosen.mix,
        progress=progress,
    )
    seen = covered_roots(bound, told)
    unseen = (g.name for g in bound.groups.values() if not g.fixed and g.root not in seen)
    return replace(found, unseen=tuple(unseen))


def observe_units(
    plan: AlignPlan, item: AlignItem, batches: Batches, progress: Progress
) -> Sequence[UnitMoments]:
    """Return what the units of the two models do on some batches."""
    assert plan.inputs.code is not None, "the plan has seen to it"
    code, chosen = plan.inputs.code, plan.request.activations
    model = plan.choice.traced or fit_traced_model(
        headers_of([plan.reference]), plan.request.selection, plan.request.tracing
    )
    points = model.known.trace.points[kind(chosen.point, chosen.stream)]
    check_room(points, plan.choice.bound, plan.machine)
    return units_on(
        [build_network(code.network, end, plan.machine) for end in (plan.reference, item.model)],
        batches,
        points,
        plan.choice.bound,
        progress=progress,
    )


def _stored(plan: AlignPlan, statistics: Statistics, item: AlignItem) -> Sequence[UnitMoments]:
    """Return what a file says of the two models, whichever of them it has first."""
    digests = (plan.reference.sha256(), item.model.sha256())
    units = load_units(statistics)
    if statistics.digests == digests[::-1] and digests[0] != digests[1]:
        return [one.swapped for one in units]
    if statistics.digests != digests and not plan.request.tracing.trust:
        others = zip((plan.reference, item.model), digests, strict=True)
        raise CheckpointError(
            "the statistics are of other checkpoints",
            where=str(statistics.path),
            detail="\n".join(_unknown(model, d, statistics) for model, d in others),
            hint=f"rebasin statistics {plan.reference.path} {item.model.path}; "
            "--trust uses them all the same",
        )
    return units


def _unknown(model: Checkpoint, digest: str, statistics: Statistics) -> str:
    known = "is in it" if digest in statistics.digests else "is not in it"
    return f"{model.path} (sha256 {digest[:12]}) {known}"


def _fits(units: UnitMoments, bound: BoundSpec) -> bool:
    """Return whether the spec has the groups of some units, and one that may move."""
    sizes = {group.name: group.size for group in bound.groups.values()}
    free = any(not bound.groups[name].fixed for name, _ in units.dims if name in sizes)
    return free and all(sizes.get(name) == size for name, size in units.dims)

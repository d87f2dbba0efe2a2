"""Running one model or two on data, and gathering what their units do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from rebasin_cli.activations.units import UnitMoments, unit_moments
from rebasin_cli.errors import UserCodeError, look_up
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.passes_with_room import pass_with_room
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tracer.points.observe_points import Units, observing, unit_count, units_at
from rebasin_cli.tracer.points.points import MOMENTS, REACHES, Point, blocks_of

BoundGroups = Mapping[str, BoundGroup]
WORD = 8  # float64
# Of the products at all places: so far, of a batch, of both; later they, similarities and the units
# that these are compared with.
COPIES = 3
AT_ONE = 3  # more at the place that is joined, or that is searched


def units_on(
    models: Sequence[nn.Module],
    batches: Batches,
    points: Sequence[Point],
    bound: BoundSpec,
    *,
    progress: Progress,
) -> list[UnitMoments]:
    """Return the moments of all units that the points show, over all batches.

    models: one or two; each batch passes through each once. Raises UserCodeError for what the
    user's code raises, for control flow other than traced, for numbers that are not finite.
    """
    groups = _groups(bound)
    here = [point for point in points if groups.keys() & set(point.groups)]
    seen = partial(_all_seen, models, here, groups, progress)
    found = pass_with_room(models, batches, seen)
    _check_finite(found)
    return found


def _all_seen(
    models: Sequence[nn.Module],
    here: Sequence[Point],
    groups: BoundGroups,
    progress: Progress,
    batches: Batches,
) -> list[UnitMoments]:
    found: list[UnitMoments] = []
    for count, batch in enumerate(batches):
        progress("running the models", count, batches.limit or 0)
        seen = _seen(models, batch, here, groups)
        found = [old.joined(new) for old, new in zip(found, seen, strict=True)] if found else seen
    progress("running the models", batches.limit or 0, batches.limit or 0)
    return found


def check_unit_room(points: Sequence[Point], bound: BoundSpec, machine: Machine) -> None:
    """Raise MachineError if what is to be known of two models does not fit into memory."""
    machine.require(
        unit_room(points, bound),
        f"comparing the units at {len(_unit_counts(points, bound))} places takes",
        hint="--stream last looks at fewer places; or raise --max-memory",
    )


def unit_room(points: Sequence[Point], bound: BoundSpec) -> int:
    """Return the bytes of what is to be known of the units of two models."""
    units = _unit_counts(points, bound)
    return WORD * (COPIES * sum(n**2 for n in units) + AT_ONE * max(units, default=0) ** 2)


def _unit_counts(points: Sequence[Point], bound: BoundSpec) -> list[int]:
    groups = _groups(bound)
    return [
        unit_count(block, groups)
        for point in points
        for block in blocks_of(point.axes)
        if set(block) & set(point.groups) & groups.keys()
    ]


def _groups(bound: BoundSpec) -> BoundGroups:
    """Return the groups that may move, and the parents of others."""
    return {name: group for name, group in bound.groups.items() if name not in bound.idle}


def _seen(
    models: Sequence[nn.Module], batch: Batch, points: Sequence[Point], groups: BoundGroups
) -> list[UnitMoments]:
    """Return the moments over one batch; what the first model does is kept for so long."""
    kept = _pass(models[0], batch, points, groups) if len(models) > 1 else {}
    found: dict[int, list[UnitMoments]] = {}

    def see(number: int, value: Tensor) -> None:
        point = points[number]
        here = units_at(point, value, groups)
        rows = [*zip(kept.pop(number), here, strict=True)] if kept else [(units,) for units in here]
        found[number] = [_moments(point, row) for row in rows]

    with observing(models[-1], points, see):
        call_model(models[-1], batch)
    return [moments for number in range(len(points)) for moments in found[number]]


def _pass(
    model: nn.Module, batch: Batch, points: Sequence[Point], groups: BoundGroups
) -> dict[int, list[Units]]:
    kept: dict[int, list[Units]] = {}

    def see(number: int, value: Tensor) -> None:
        kept[number] = units_at(points[number], value.clone(), groups)

    with observing(model, points, see):
        call_model(model, batch)
    return kept


def _moments(point: Point, row: Sequence[Units]) -> UnitMoments:
    place = f"{point.operator} {point.turn + 1} of {point.calls}, tensor {point.operand + 1}"
    if len({units.samples.shape for units in row}) > 1:
        raise UserCodeError(
            f"{place}: the two models are given other numbers of samples",
            detail=" and ".join(str(tuple(units.samples.shape)) for units in row),
        )
    return unit_moments(row[0].dims, place, [units.samples for units in row])


def _check_finite(found: Sequence[UnitMoments]) -> None:
    for one in found:
        for number, moments in enumerate(one.models, 1):
            if not bool(torch.isfinite(moments.scatter).all()):
                raise UserCodeError(
                    f"activations of model {number} are NaN or infinite",
                    where=one.place,
                    hint="look at the data and the checkpoint",
                )


def check_places(chosen: Activations) -> None:
    """Raise UsageError for a place that has another name."""
    look_up("point", chosen.point, dict.fromkeys(MOMENTS))
    look_up("reach of --stream", chosen.stream, dict.fromkeys(REACHES))

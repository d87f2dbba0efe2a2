"""Carrying out `rebasin statistics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from torch import Tensor

from rebasin_cli.activations.layer_places import UnitPlaces, unit_places
from rebasin_cli.activations.layer_statistics import layer_tensors
from rebasin_cli.activations.measured_model import MeasuredModel, model_digest
from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.activations.observe import check_unit_room, units_on
from rebasin_cli.activations.statistics_file import (
    statistics_metadata,
    statistics_tensors,
)
from rebasin_cli.activations.units import UnitMoments
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.statistics.plan import Observed, StatisticsPlan
from rebasin_cli.files.write import write_tensors_to
from rebasin_cli.network.built import build_network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.dump import dump


def run_statistics(plan: StatisticsPlan, progress: Progress) -> Iterator[LeftAsIs | Observed]:
    """Yield the file of what the units of the plan's models do on its data."""
    if plan.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    began = perf_counter()
    chosen, points = plan.request.activations, plan.points
    if len(plan.models) > 1:
        check_unit_room(points, plan.choice.bound, plan.machine)
    batches = data_of(plan.code, plan.models, plan.machine, progress)
    models = [build_network(plan.code.network, model, plan.machine) for model in plan.models]
    units = units_on(models, batches, points, plan.choice.bound, progress=progress)
    progress("measuring layers", 0, 0)
    pair, room = len(models) > 1, plan.machine.max_memory - sum(map(_bytes, units))
    layers = layer_statistics(models, batches, together=pair, room=room)
    places = unit_places(models[0], layers, plan.code.network.windows)
    free = {g.name: g.size for g in plan.choice.bound.groups.values() if not g.fixed}
    told = {group for one in units for group, _ in one.dims}
    yield Observed(
        models=tuple(model.path for model in plan.models),
        spec=plan.choice.name,
        moment=chosen.point,
        samples=max((one.count for one in units), default=0),
        groups={name: size for name, size in free.items() if name in told},
        unseen=tuple(name for name in free if name not in told),
        written=_write_statistics(plan, units, layer_tensors(layers), places),
        seconds=perf_counter() - began,
    )


def _write_statistics(
    plan: StatisticsPlan,
    units: Sequence[UnitMoments],
    layers: Mapping[str, Tensor],
    places: UnitPlaces,
) -> Written:
    facts = {
        "moment": plan.request.activations.point,
        "stream": plan.request.activations.stream,
        "models": [model.path.name for model in plan.models],
        "model": plan.request.tracing.target,
        "data": plan.request.data.data,
        "batches": plan.request.data.batches,
    }
    measured = [MeasuredModel(model.sha256(), model_digest(model, model)) for model in plan.models]
    metadata = statistics_metadata(dump(plan.choice.bound.spec), units, measured, places, facts)
    own = {name: tensor.cpu().contiguous() for name, tensor in layers.items()}
    return write_tensors_to(plan.place, {**statistics_tensors(units), **own}, metadata)


def _bytes(units: UnitMoments) -> int:
    return 0 if units.products is None else units.products.nbytes

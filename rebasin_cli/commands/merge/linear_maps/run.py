"""Carrying out `rebasin merge --method zipit|cca`: align, map hidden units linearly, average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from rebasin_cli.activations.moments import CrossMoments
from rebasin_cli.commands.merge.common_frame import ModelsInFrame
from rebasin_cli.commands.merge.linear_maps.linear_map import LinearMap, Mapped
from rebasin_cli.commands.merge.linear_maps.linear_map_file import save_linear_maps
from rebasin_cli.commands.merge.linear_maps.linear_methods import LINEAR
from rebasin_cli.commands.merge.linear_maps.plan import LinearMapsPlan, LinearMeanPlan
from rebasin_cli.commands.merge.linear_maps.readers import seen_at, stacked_moments
from rebasin_cli.commands.merge.merged import Merged, ModelSize, Zipped
from rebasin_cli.commands.merge.operations import size_of
from rebasin_cli.commands.merge.run import MadeModel, run_making, running_facts
from rebasin_cli.files.write import Result
from rebasin_cli.merging.sources import Mean
from rebasin_cli.models.user.batch_inputs import fit_batch
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.run import Parents, correct_if_planned
from rebasin_cli.tensors import TensorSource

Maps = Mapping[str, Sequence[LinearMap]]  # group -> the map of each model


def run_linear_maps(plan: LinearMapsPlan, progress: Progress) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model."""
    yield from run_making(plan.merge, partial(_make_model, plan), progress)


def _make_model(plan: LinearMapsPlan, together: ModelsInFrame, progress: Progress) -> MadeModel:
    seen, maps = found_maps(plan, together.sources, progress)
    save_linear_maps(plan, together.alignment.permutations, maps)
    source, report = correct_if_planned(
        map_units(plan, together.sources, maps),
        Parents(),
        plan=plan.correction,
        machine=plan.merge.machine,
        progress=progress,
    )

    def complete(merged: Merged) -> Merged:
        return replace(merged, zipped=_outcome(plan, maps, seen, _size(plan, source)))

    facts = running_facts(plan.merge, plan.method)
    return MadeModel(Result(source, plan.merge.models[0], facts), report, complete)


def _size(plan: LinearMapsPlan, source: TensorSource) -> ModelSize:
    """Return the size of the result, which is that of any of the models."""
    machine = plan.merge.machine
    model = build_network(plan.code.network, source, machine)
    first = fit_batch(next(iter(batches_of(plan.code, machine))), model)
    return size_of(model, first.example)


def found_maps(
    plan: LinearMeanPlan, sources: Sequence[TensorSource], progress: Progress
) -> tuple[Mapping[str, CrossMoments], Maps]:
    """Return what the units of the aligned models of a plan do together, and their maps."""
    seen = _moments(plan, sources, progress)
    return seen, _maps(plan, seen, progress)


def map_units(plan: LinearMeanPlan, sources: Sequence[TensorSource], maps: Maps) -> Mean:
    """Return the mean of the models of a plan, each with its units mapped."""
    tensors, merge = plan.choice.bound.tensors, plan.merge
    mapped = [
        Mapped(source, tensors, {group: own[number] for group, own in maps.items()}, plan.sides)
        for number, source in enumerate(sources)
    ]
    return Mean(
        mapped, merge.mixture.weights.models, merge.reference, merge.request.selection.selects
    )


def _moments(
    plan: LinearMeanPlan, sources: Sequence[TensorSource], progress: Progress
) -> dict[str, CrossMoments]:
    """Return what the units of all models do together on the data."""
    machine, network = plan.merge.machine, plan.code.network
    models = [build_network(network, source, machine) for source in sources]
    readers = seen_at(network, plan.readers)
    return stacked_moments(models, readers, batches_of(plan.code, machine), progress=progress)


def _maps(plan: LinearMeanPlan, seen: Mapping[str, CrossMoments], progress: Progress) -> Maps:
    maps: dict[str, Sequence[LinearMap]] = {}
    for count, (group, moments) in enumerate(seen.items()):
        progress(f"merging units by {plan.method}", count, len(seen))
        maps[group] = LINEAR[plan.method](moments.covariance.cpu(), len(plan.merge.models))
    return maps


def _outcome(
    plan: LinearMapsPlan, maps: Maps, seen: Mapping[str, CrossMoments], size: ModelSize
) -> Zipped:
    every = [one for own in maps.values() for one in own]
    inside = sum(int((one.read.sum(0) - 1).clamp(min=0).sum()) for one in every)
    return Zipped(
        method=plan.method,
        groups=tuple(maps),
        units=sum(len(own[0].read) for own in maps.values()),
        inside=inside if plan.method == "zipit" else 0,
        samples={group: moments.a.count for group, moments in seen.items()},
        others=plan.others,
        maps=plan.maps.path if plan.maps else None,
        size=size,
    )

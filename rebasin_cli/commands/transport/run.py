"""Carrying out `rebasin transport`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.transport.by_adapter import AdapterPlan
from rebasin_cli.commands.transport.command import ADAPTER, DELTA, PERMUTATION
from rebasin_cli.commands.transport.gradient_mask import kept_share, mask_frame, slopes_of
from rebasin_cli.commands.transport.held_out import (
    HELD_OUT,
    learned_batches,
    learns_from_data,
    split_for,
)
from rebasin_cli.commands.transport.plan import TransportPlan
from rebasin_cli.commands.transport.scored_models import Contender, ScoredModel, score_models
from rebasin_cli.commands.transport.transported import CarriedFrame, DeltaOf, Transported
from rebasin_cli.commands.transport.way import CarriedModels
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import batches_of
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress


@dataclass(frozen=True)
class CarriedDifference:
    """A difference that was carried to another model.

    lines, fields: what is reported of the maps, see `CarriedModels`. scores: of the models before
    and after, if they were judged. apart: whether they were judged on batches that no map and no
    mask was learned from; None: they were not judged, or nothing was learned from data.
    """

    tuned: Path
    origin: Path
    target: Path
    map: str
    scale: float
    form: str
    carried: int
    replaced: tuple[str, ...]
    lines: tuple[str, ...]
    fields: Mapping[str, Any]
    scores: tuple[ScoredModel, ...]
    written: Written
    seconds: float
    apart: bool | None = None


def run_transport(
    plan: TransportPlan | AdapterPlan, progress: Progress
) -> Iterator[LeftAsIs | CarriedDifference]:
    """Yield the target with the difference added, or the difference in its frame."""
    if plan.place.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    if isinstance(plan, AdapterPlan):
        yield _carried_adapter(plan, progress)
        return
    began, request = perf_counter(), plan.request
    brought = plan.way.bring(progress)
    if request.masked:
        brought = _mask_difference(plan, brought, progress)
    scale = _scale(plan, brought.frame)
    judging = _judging(plan)
    scores = tuple(_scores(plan, judging, brought.frame, scale, progress))
    written = _write(plan, brought, scale, progress)
    yield CarriedDifference(
        tuned=plan.way.tuned.path,
        origin=plan.way.origin.path,
        target=plan.way.target.path,
        map=request.map,
        scale=scale,
        form=request.form,
        carried=len(plan.fates.carried) - brought.unmapped,
        replaced=tuple(plan.fates.replaced),
        lines=brought.lines,
        fields=brought.fields,
        scores=scores,
        written=written,
        seconds=perf_counter() - began,
        apart=judging is not None if scores and _is_shared(plan) else None,
    )


def _carried_adapter(plan: AdapterPlan, progress: Progress) -> CarriedDifference:
    began, way = perf_counter(), plan.way
    found = way.match(progress)
    inputs = (plan.adapter, way.origin, way.target)
    facts = provenance("transport", inputs, basin=None, spec=way.spec, map=PERMUTATION)
    progress(f"writing {plan.place.path.name}", 0, 0)
    result = Result(plan.moved(found.matching), plan.adapter, facts)
    return CarriedDifference(
        tuned=plan.adapter.path,
        origin=way.origin.path,
        target=way.target.path,
        map=PERMUTATION,
        scale=1.0,
        form=ADAPTER,
        carried=len(plan.bound.tensors),
        replaced=(),
        lines=found.lines,
        fields=found.fields,
        scores=(),
        written=write_result(result, plan.place, plan.request, inputs=inputs),
        seconds=perf_counter() - began,
    )


def _mask_difference(
    plan: TransportPlan, brought: CarriedModels, progress: Progress
) -> CarriedModels:
    """Return a difference of which only that counts which lowers the target's own loss."""
    bench = plan.judged
    batches = learned_batches(plan.request, batches_of(bench.code, bench.machine))
    progress("taking the gradient", 0, 0)
    target = Transported(brought.frame, plan.fates, 0.0)
    slopes = slopes_of(bench.code.network, target, bench.machine, batches)
    frame = mask_frame(brought.frame, plan.fates, slopes)
    share = kept_share(frame)
    line = f"{100 * share:.1f} % of the coordinates agree with the slope of the loss and are kept"
    return replace(
        brought,
        frame=frame,
        lines=(*brought.lines, line),
        fields={**brought.fields, "kept": share},
    )


def _scale(plan: TransportPlan, frame: CarriedFrame) -> float:
    """Return what a difference is multiplied by: as asked for, or what loses least held out."""
    if plan.request.scale is not None:
        return plan.request.scale
    batches = batches_of(plan.judged.code, plan.judged.machine)
    return plan.judged.best_scale(frame, plan.fates, DataSplit(batches, HELD_OUT))


def _is_shared(plan: TransportPlan) -> bool:
    """Return whether models are judged on data that something is learned from too."""
    return (
        learns_from_data(plan.request)
        and plan.bench is not None
        and plan.bench.code.evaluate is None
    )


def _judging(plan: TransportPlan) -> Batches | None:
    """Return the batches that are held out from maps and masks, if models are judged on some."""
    if not _is_shared(plan):
        return None
    bench = plan.judged
    split = split_for(plan.request, batches_of(bench.code, bench.machine))
    return None if split is None else split.held_out_batches()


def _scores(
    plan: TransportPlan,
    judging: Batches | None,
    frame: CarriedFrame,
    scale: float,
    progress: Progress,
) -> Iterator[ScoredModel]:
    """Yield the scores of the models before and after, if there is code to judge them.

    Where the shapes allow it, adding the difference without any map is judged too.
    """
    if plan.bench is None or not plan.bench.can_judge(frame.target):
        return
    way, contenders = plan.way, [Contender("transported", frame, scale)]
    if all(way.origin.info(n).shape == way.target.info(n).shape for n in plan.fates.carried):
        selection = plan.request.selection
        target, tuned, origin = (
            finite_model(model, selection) for model in (way.target, way.tuned, way.origin)
        )
        naive = CarriedFrame(target, tuned, origin)
        contenders.insert(0, Contender("naive", naive, _scale(plan, naive)))
    bench = replace(plan.bench, judging=judging)
    yield from score_models(bench, contenders, plan.fates, way.tuned, progress)


def _write(
    plan: TransportPlan, brought: CarriedModels, scale: float, progress: Progress
) -> Written:
    request, target = plan.request, plan.way.target
    inputs = (plan.way.tuned, plan.way.origin, target)
    alone = request.form == DELTA
    facts = provenance(
        "transport",
        inputs,
        basin=None if alone else brought.basin,
        spec=plan.way.spec,
        seed=request.computing.seed,
        map=request.map,
        scale=scale,
        form=request.form,
        mask_gradients=request.masked,
        **brought.facts,
    )
    model = Transported(brought.frame, plan.fates, scale)
    source = DeltaOf(model, brought.frame.target, plan.fates) if alone else model
    progress(f"writing {plan.place.path.name}", 0, 0)
    result = Result(source, target, facts, others=plan.fates.replaced)
    return write_result(result, plan.place, request, inputs=inputs)

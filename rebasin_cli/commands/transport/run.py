"""Carrying out `rebasin transport`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.transport.plan import TransportPlan
from rebasin_cli.commands.transport.request import DELTA
from rebasin_cli.commands.transport.transported import DeltaOf, Transported
from rebasin_cli.commands.transport.way import Brought
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress


@dataclass(frozen=True)
class Carriage:
    """A difference that was carried. lines, fields: what is told of the maps, see `Brought`."""

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
    written: Written
    seconds: float


def run_transport(plan: TransportPlan, progress: Progress) -> Iterator[LeftAsIs | Carriage]:
    """Yield the target with the difference added, or the difference in its frame."""
    if plan.place.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    began, request = perf_counter(), plan.request
    brought = plan.way.bring(progress)
    scale = 1.0 if request.scale is None else request.scale
    written = _write(plan, brought, scale, progress)
    yield Carriage(
        tuned=plan.tuned.path,
        origin=plan.origin.path,
        target=plan.way.target.path,
        map=request.map,
        scale=scale,
        form=request.form,
        carried=len(plan.fates.carried),
        replaced=tuple(plan.fates.replaced),
        lines=brought.lines,
        fields=brought.fields,
        written=written,
        seconds=perf_counter() - began,
    )


def _write(plan: TransportPlan, brought: Brought, scale: float, progress: Progress) -> Written:
    request, target = plan.request, plan.way.target
    inputs = (plan.tuned, plan.origin, target)
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
        **brought.facts,
    )
    model = Transported(brought.frame, plan.fates, scale)
    source = DeltaOf(model, brought.frame.target, plan.fates) if alone else model
    progress(f"writing {plan.place.path.name}", 0, 0)
    result = Result(source, target, facts, others=plan.fates.replaced)
    return write_result(result, plan.place, request, inputs=inputs)

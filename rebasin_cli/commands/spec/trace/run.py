"""Carrying out `rebasin spec trace`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from rebasin_cli.checkpoint.writing.writer import Written, write_text
from rebasin_cli.commands.spec.trace.plan import Traced, TracePlan
from rebasin_cli.commands.spec.trace.traced_text import traced_text
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.target_tracing import trace_target


def run_trace(plan: TracePlan, progress: Progress) -> Iterator[LeftAsIs | Traced]:
    """Yield the spec of a model; written to a file only if a place is planned for it."""
    if plan.place is not None and plan.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    began = perf_counter()
    target = plan.tracing.target or ""
    found = trace_target(replace(plan.tracing, progress=progress))
    text = traced_text(plan.tracing, found)
    yield Traced(
        target=target,
        model=found,
        text=text,
        explain=plan.explain,
        written=_write_spec(plan.place, text),
        seconds=perf_counter() - began,
    )


def _write_spec(place: OutputPlace | None, text: str) -> Written | None:
    return write_text(place.path, text, overwrite=place.overwrite) if place else None

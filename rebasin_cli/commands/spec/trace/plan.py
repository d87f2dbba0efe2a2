"""The plan of `rebasin spec trace`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.spec.trace.command import TraceRequest
from rebasin_cli.files.places import OutputPlace, plan_place
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.options.values import optional_file
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.tracer.model_trace import Trace


@dataclass(frozen=True)
class TracePlan:
    """A model to trace. place: where the spec is written; None: nowhere."""

    tracing: Tracing
    explain: bool
    place: OutputPlace | None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        path = str(self.place.path) if self.place else None
        return {"command": "spec trace", "target": self.tracing.target, "path": path}


def plan_trace(request: TraceRequest) -> TracePlan:
    """Return what will be traced, and where the spec goes."""
    path = optional_file(request.output.out)
    place = plan_place(path, request.output) if path else None
    tracing = replace(request.tracing, target=request.target)
    return TracePlan(tracing, request.explain, place)


@dataclass(frozen=True)
class Traced:
    """The spec of a traced model. text: as YAML, with where it comes from in comments.

    explain: tables are to be shown instead of the text. written: the file it went to, if any.
    """

    target: str
    model: TracedModel
    text: str
    explain: bool
    written: Written | None
    seconds: float

    @property
    def trace(self) -> Trace:
        return self.model.trace

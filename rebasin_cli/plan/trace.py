"""The plan of `rebasin spec trace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_cli.plan.options import Options, Tracing
from rebasin_cli.plan.targets import Place, plan_place


@dataclass(frozen=True)
class TracePlan:
    """A model to trace. place: where the spec is written; None: nowhere."""

    tracing: Tracing
    explain: bool
    place: Place | None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {"command": "spec trace", "target": self.tracing.target}


def plan_trace(options: Options, *, explain: bool) -> TracePlan:
    """Return what will be traced, and where the spec goes."""
    place = plan_place(options.out, options) if options.out else None
    return TracePlan(options.tracing, explain, place)

"""What correcting the statistics of a merged model did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.renormalize.plan import Renormalized
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.renormalization.report import layer_details, report_fields, report_lines


def renormalize_fields(outcome: Renormalized) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    return {
        "model": str(outcome.model),
        "parents": [
            {"path": str(parent.path), "weight": parent.weight, "basin": parent.basin}
            for parent in outcome.parents
        ],
        "spec": outcome.spec,
        **report_fields(outcome.report),
        "seconds": outcome.seconds,
    }


def renormalize_summary(outcome: Renormalized) -> str:
    """Return what a person wants to know."""
    lines = [f"{outcome.model} renormalized by {outcome.report.method}"]
    for parent in outcome.parents:
        lines.append(f"  parent {parent.path}, weight {parent.weight:g}: {parent.basin}")
    lines += report_lines(outcome.report)
    lines += [f"  {outcome.assumed}"] if outcome.assumed else []
    spec = f"spec {outcome.spec}, " if outcome.spec else ""
    return "\n".join([*lines, f"  {spec}{outcome.seconds:.1f} s"])


PRESENTERS: Presenters = {
    Renormalized: Presenter(
        fields=renormalize_fields,
        summary=renormalize_summary,
        details=lambda outcome: layer_details(outcome.report),
        written=lambda outcome: outcome.written,
    )
}

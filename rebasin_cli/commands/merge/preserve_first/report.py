"""What merging all but the first layers did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.merge.merged import Preserved


def preserve_fields(outcome: Preserved | None) -> dict[str, Any]:
    """Return what a result event says besides what every merge says."""
    if outcome is None:
        return {}
    return {
        "module": str(outcome.module),
        "join": outcome.join,
        "kept": list(outcome.kept),
        "layers": outcome.layers,
        "parameters": outcome.parameters,
        "parameters_ratio": outcome.parameters / (outcome.single or 1),
        "cost_ratio": outcome.cost,
        "max_difference": outcome.difference,
    }


def preserve_lines(outcome: Preserved) -> list[str]:
    """Return what a person wants to know besides how the models were merged."""
    ratio = outcome.parameters / (outcome.single or 1)
    return [
        f"  {len(outcome.kept)} of {outcome.layers} layers kept of each model, up to "
        f"{outcome.kept[-1]}; joined at the input of {outcome.join}",
        f"  {outcome.parameters:,} parameters, {ratio:.2f} times those of one model; "
        f"a pass costs about {outcome.cost:.2f} times as much",
        f"  copies of one model compute what it does, to {outcome.difference:.1g}",
        f"  {outcome.module} builds it: --model {outcome.module}:build",
    ]

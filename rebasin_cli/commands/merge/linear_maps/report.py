"""What merging hidden units by linear maps did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.merge.merged import Zipped
from rebasin_cli.wording import list_names

_SHOWN = 8  # groups that are only permuted
_REASONS = 3  # why they are


def zip_fields(outcome: Zipped | None) -> dict[str, Any]:
    """Return the fields of a merge's event that only this method adds."""
    if outcome is None:
        return {}
    size = outcome.size
    return {
        "method": outcome.method,
        "mapped": list(outcome.groups),
        "permuted": dict(outcome.others),
        "units": outcome.units,
        "inside": outcome.inside,
        "samples": dict(outcome.samples),
        "parameters": size.parameters,
        "flops": size.flops,
        "maps": str(outcome.maps) if outcome.maps else None,
    }


def zip_lines(outcome: Zipped) -> list[str]:
    """Return what a person wants to know besides how the models were merged."""
    few = min(outcome.samples.values(), default=0)
    every, size = len(outcome.groups) + len(outcome.others), outcome.size
    lines = [
        f"  {outcome.method}: {len(outcome.groups)} of {every} groups, {outcome.units} units, "
        f"mapped linearly from at least {few:,} samples{_inside(outcome)}",
        "  linear maps keep no model's function: judge the result before you use it",
        f"  as each of the models, {size.parameters:,} parameters, and {size.flops:,} FLOPs an "
        "input",
    ]
    if outcome.maps:
        lines.append(f"  maps of every model: {outcome.maps}")
    if outcome.others:
        lines.append(f"  only permuted: {list_names(list(outcome.others), _SHOWN)}")
    shown = list(dict.fromkeys(outcome.others.values()))[:_REASONS]
    return lines + [f"    because {why}" for why in shown]


def _inside(outcome: Zipped) -> str:
    return f"; {outcome.inside} merged with one of their own model" if outcome.inside else ""

"""What solving layers did, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rebasin_cli.commands.merge.merged import Solved
from rebasin_cli.wording import count, list_names

_SHOWN = 8  # names of each kind
_REASONS = 3  # why layers are averaged, or groups stay narrow


def solved_fields(outcome: Solved | None) -> dict[str, Any]:
    """Return the fields of a merge's event that only this method adds."""
    if outcome is None:
        return {}
    return {
        "method": "least-squares",
        "solved": {
            name: {"samples": fit.samples, "error": {"before": fit.before, "after": fit.after}}
            for name, fit in outcome.layers.items()
        },
        "averaged": dict(outcome.others),
        "width": outcome.width,
        "wider": {name: list(sizes) for name, sizes in outcome.wider.items()},
        "narrow": dict(outcome.narrow),
        "parameters": outcome.parameters,
        "parameters_ratio": outcome.parameters / (outcome.single or 1),
        "max_difference": outcome.difference,
    }


def solved_lines(outcome: Solved) -> list[str]:
    """Return what a person wants to know besides how the models were merged."""
    fits = outcome.layers.values()
    few = min((fit.samples for fit in fits), default=0)
    before, after = (_mean(getattr(fit, when) for fit in fits) for when in ("before", "after"))
    lines = [
        f"  least squares: {count(len(fits), 'layer')} solved from at least {few:,} samples",
        f"  error of what they return, over its variance: {before:.2g} -> {after:.2g} in the mean",
        *_told("averaged", outcome.others),
        *_wider_lines(outcome),
    ]
    return [*lines, "  the result computes what no model does: judge it before you use it"]


def _wider_lines(outcome: Solved) -> list[str]:
    if not outcome.wider:
        return []
    sizes = [f"{name} {a:,} -> {b:,}" for name, (a, b) in outcome.wider.items()]
    ratio = outcome.parameters / (outcome.single or 1)
    return [
        f"  wider: {list_names(sizes, _SHOWN)}; build the class as wide to load the result",
        f"  {outcome.parameters:,} parameters, {ratio:.2f} times those of one model",
        f"  copies of one model compute what it does, to {outcome.difference:.1g}",
        *_told("not wider", outcome.narrow),
    ]


def _told(what: str, reasons: Mapping[str, str]) -> list[str]:
    """Return which are left out, and why."""
    if not reasons:
        return []
    why = list(dict.fromkeys(reasons.values()))[:_REASONS]
    return [f"  {what}: {list_names(list(reasons), _SHOWN)}", *(f"    because {w}" for w in why)]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

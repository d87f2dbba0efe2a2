"""What was observed of units, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.matching import Matching
from rebasin_cli.plan.statistics_outcome import Observed

SHOWN = 5  # names of groups


def statistics_fields(outcome: Observed) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    return {
        "models": [str(path) for path in outcome.models],
        "spec": outcome.spec,
        "point": outcome.moment,
        "samples": outcome.samples,
        "groups": [{"name": name, "size": size} for name, size in outcome.groups.items()],
        "unseen": list(outcome.unseen),
        "seconds": outcome.seconds,
    }


def statistics_summary(outcome: Observed) -> str:
    """Return what a person wants to know."""
    of = " and ".join(map(str, outcome.models))
    groups = f"{len(outcome.groups):,} group{'' if len(outcome.groups) == 1 else 's'}"
    lines = [
        f"{of}: {groups} seen {outcome.moment} the activation, "
        f"up to {outcome.samples:,} samples a unit, {outcome.seconds:.1f} s",
        f"  spec {outcome.spec}",
    ]
    if outcome.unseen:
        lines.append(f"  no activations tell of {_listed(outcome.unseen)}")
    return "\n".join(lines)


def unseen_fields(matching: Matching) -> dict[str, Any]:
    """Return what a result event says of groups that no activations tell of."""
    return {"unseen": list(matching.unseen)} if matching.method == "activations" else {}


def unseen_lines(matching: Matching) -> list[str]:
    """Return what a summary says of groups that were matched on weights instead."""
    if not matching.unseen:
        return []
    return [f"  matched on weights, since no activations tell of them: {_listed(matching.unseen)}"]


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {more:,} more" if more > 0 else shown

"""What the units of two models say: the fields of an event, tables for people, the advice."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.unit_tables import _share_moved
from rebasin_cli.matching.diagnostics.relation import aligned_relation
from rebasin_cli.matching.problem.result import (
    Change,
    Margin,
    Matching,
    UnitComparison,
    UnitFigures,
)


def before_and_after(change: Change | None) -> dict[str, float] | None:
    """Return a figure before and after as JSON values."""
    return {"before": change.before, "after": change.after} if change else None


def aligned_fields(matching: Matching, found: UnitComparison) -> dict[str, Any]:
    """Return what the event of an aligned model says of the two models as a whole."""
    relation = aligned_relation(matching.status, found)
    return {
        "relation": relation.name.lower(),
        "advice": relation.value,
        "share_moved": _share_moved(matching),
        "cosine": before_and_after(found.cosine),
        "chance": found.chance,
        "unit_cosine": before_and_after(found.whole.cosine),
        "collapse": before_and_after(found.whole.collapse),
    }


def unit_fields(figures: UnitFigures) -> dict[str, Any]:
    """Return what the event of an aligned model says of the units of one group."""
    return {
        "unit_cosine": before_and_after(figures.cosine),
        "collapse": before_and_after(figures.collapse),
        "margin": margin_fields(figures.margin),
    }


def aligned_lines(matching: Matching, found: UnitComparison) -> tuple[str, str]:
    """Return the figures of two matched models as a whole, and the advice."""
    change, cosine = matching.objective, found.cosine
    return (
        f"  objective {change.before:.4g} -> {change.after:.4g}, cosine {cosine.before:.3f} -> "
        f"{cosine.after:.3f} ({chance_text(found)})",
        f"  advice: {aligned_relation(matching.status, found).value}",
    )


def chance_text(found: UnitComparison) -> str:
    return f"unrelated weights, matched: up to {found.chance:.3f}"


def margin_fields(margin: Margin | None) -> dict[str, float] | None:
    return {"mean": margin.mean, "nearest": margin.nearest} if margin else None

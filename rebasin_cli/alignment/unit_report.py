"""What the units of two models say: the fields of an event, tables for people, the advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.matching.diagnostics.margins import Margin
from rebasin_cli.matching.diagnostics.relation import UnitComparison, UnitFigures, aligned_relation
from rebasin_cli.matching.problem.result import Change, GroupChange, Matching
from rebasin_cli.presentation.tables import number_columns, table

LEGEND = (
    "cosine: of each unit with its partner, on average; kept: norm of the average of the two, "
    "1: nothing is lost"
)


MARGINS = (
    "\nmargin: lead of the partner over the next best unit; nearest: units whose partner leads"
)


def span(change: Change | None) -> dict[str, float] | None:
    """Return a figure before and after as JSON values."""
    return {"before": change.before, "after": change.after} if change else None


def aligned_fields(matching: Matching, found: UnitComparison) -> dict[str, Any]:
    """Return what the event of an aligned model says of the two models as a whole."""
    relation = aligned_relation(matching.status, found)
    return {
        "relation": relation.name.lower(),
        "advice": relation.value,
        "share_moved": _share_moved(matching),
        "cosine": span(found.cosine),
        "chance": found.chance,
        "unit_cosine": span(found.whole.cosine),
        "collapse": span(found.whole.collapse),
    }


def unit_fields(figures: UnitFigures) -> dict[str, Any]:
    """Return what the event of an aligned model says of the units of one group."""
    return {
        "unit_cosine": span(figures.cosine),
        "collapse": span(figures.collapse),
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


def aligned_table(matching: Matching, found: UnitComparison) -> Table:
    """Return a row for each group that may move, and one for all of them."""
    rows = group_table("size", "moved", "cosine", "kept", *last_headings(found))
    for group in movable_groups(matching.groups):
        figures = found.groups[group.name]
        rows.add_row(
            escape(group.name),
            f"{group.size:,}",
            f"{group.moved:,}/{group.units:,}",
            *_spans(figures),
            *margin_cells(figures, found),
            f"{group.gain:.4g}",
        )
    gain = f"{matching.objective.after - matching.objective.before:.4g}"
    sure = [""] * (len(last_headings(found)) - 1)
    rows.add_row("all", "", f"{_share_moved(matching):.0%}", *_spans(found.whole), *sure, gain)
    return rows


def legend(found: UnitComparison) -> str:
    """Return what the columns of a table mean."""
    return LEGEND + (MARGINS if _has_margins(found) else "")


def chance_text(found: UnitComparison) -> str:
    return f"unrelated weights, matched: up to {found.chance:.3f}"


def movable_groups(groups: Sequence[GroupChange]) -> Iterator[GroupChange]:
    return (group for group in groups if not group.fixed)


def _share_moved(matching: Matching) -> float:
    units = sum(group.units for group in movable_groups(matching.groups))
    return sum(group.moved for group in movable_groups(matching.groups)) / (units or 1)


def _has_margins(found: UnitComparison) -> bool:
    return any(figures.margin for figures in found.groups.values())


def last_headings(found: UnitComparison) -> tuple[str, ...]:
    return ("margin", "nearest", "gain") if _has_margins(found) else ("gain",)


def margin_fields(margin: Margin | None) -> dict[str, float] | None:
    return {"mean": margin.mean, "nearest": margin.nearest} if margin else None


def _spans(figures: UnitFigures) -> list[str]:
    """Return two cells: cosine, and norm kept, each before and after."""
    changes = figures.cosine, figures.collapse
    return [f"{c.before:.3f} -> {c.after:.3f}" if c else "" for c in changes]


def margin_cells(figures: UnitFigures, found: UnitComparison) -> list[str]:
    if not _has_margins(found):
        return []
    margin = figures.margin
    return [f"{margin.mean:.3f}", f"{margin.nearest:.0%}"] if margin else ["", ""]


def group_table(*headings: str) -> Table:
    return table(Column("group", overflow="fold"), *number_columns(*headings))


def matched_details(
    matching: Matching, found: UnitComparison | None = None
) -> list[RenderableType]:
    """Return a table with a row for each group that may move, and what its columns mean."""
    return [aligned_table(matching, found), legend(found)] if found else [_plain_table(matching)]


def _plain_table(matching: Matching) -> Table:
    """Return size, units moved, cosine of all weights before and after, and gain of each group."""
    groups = table("group", *number_columns("size", "moved", "cosine before", "after", "gain"))
    for group in (group for group in matching.groups if not group.fixed):
        groups.add_row(
            escape(group.name),
            f"{group.size}",
            f"{group.moved}/{group.units}",
            f"{group.cosine.before:.4f}",
            f"{group.cosine.after:.4f}",
            f"{group.gain:.4g}",
        )
    return groups

"""Tables of the units of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.matching.problem.result import GroupChange, Matching, UnitComparison, UnitFigures
from rebasin_cli.presentation.tables import number_columns, table

LEGEND = (
    "cosine: of each unit with its partner, on average; kept: norm of the average of the two, "
    "1: nothing is lost"
)


MARGINS = (
    "\nmargin: lead of the partner over the next best unit; nearest: units whose partner leads"
)


def _aligned_table(matching: Matching, found: UnitComparison) -> Table:
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


def movable_groups(groups: Sequence[GroupChange]) -> Iterator[GroupChange]:
    return (group for group in groups if not group.fixed)


def _share_moved(matching: Matching) -> float:
    units = sum(group.units for group in movable_groups(matching.groups))
    return sum(group.moved for group in movable_groups(matching.groups)) / (units or 1)


def _has_margins(found: UnitComparison) -> bool:
    return any(figures.margin for figures in found.groups.values())


def last_headings(found: UnitComparison) -> tuple[str, ...]:
    return ("margin", "nearest", "gain") if _has_margins(found) else ("gain",)


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
    return [_aligned_table(matching, found), legend(found)] if found else [_plain_table(matching)]


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

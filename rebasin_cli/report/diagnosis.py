"""What the units of two models say: the fields of an event, tables for people, the advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from rebasin_cli.matching import (
    Change,
    Diagnosis,
    GroupChange,
    Matching,
    Relation,
    UnitFigures,
    aligned_relation,
    present_relation,
)
from rebasin_cli.matching.margins import Margin
from rebasin_cli.plan.outcome import Compared, Diagnosed

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


def aligned_fields(matching: Matching, found: Diagnosis) -> dict[str, Any]:
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
        "margin": _margin(figures.margin),
    }


def present_fields(outcome: Compared) -> dict[str, Any]:
    """Return what the event of a comparison says under a spec: single figures, nothing moved."""
    groups = outcome.groups
    if groups is None:
        return {}
    found, relation = groups.diagnosis, _present(outcome, groups)
    return {
        "spec": groups.spec,
        "relation": relation.name.lower(),
        "advice": relation.value,
        "objective": groups.measured.objective.before,
        "cosine": found.cosine.before,
        "chance": found.chance,
        **_single(found.whole),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "units": group.units,
                "fixed": group.fixed,
                "cosine": group.cosine.before,
                **_single(found.groups[group.name]),
                "margin": _margin(found.groups[group.name].margin),
            }
            for group in groups.measured.groups
        ],
    }


def aligned_lines(matching: Matching, found: Diagnosis) -> tuple[str, str]:
    """Return the figures of two matched models as a whole, and the advice."""
    change, cosine = matching.objective, found.cosine
    return (
        f"  objective {change.before:.4g} -> {change.after:.4g}, cosine {cosine.before:.3f} -> "
        f"{cosine.after:.3f} ({_chance(found)})",
        f"  advice: {aligned_relation(matching.status, found).value}",
    )


def present_line(outcome: Compared, groups: Diagnosed) -> str:
    """Return the figures of two models as they are, under a spec, and the advice."""
    found = groups.diagnosis
    return (
        f"spec {groups.spec}: objective {groups.measured.objective.before:.4g}, "
        f"cosine {found.cosine.before:.3f} ({_chance(found)})\n"
        f"advice: {_present(outcome, groups).value}"
    )


def aligned_table(matching: Matching, found: Diagnosis) -> Table:
    """Return a row for each group that may move, and one for all of them."""
    table = _table("size", "moved", "cosine", "kept", *_last(found))
    for group in _movable(matching.groups):
        figures = found.groups[group.name]
        table.add_row(
            escape(group.name),
            f"{group.size:,}",
            f"{group.moved:,}/{group.units:,}",
            *_spans(figures),
            *_sure(figures, found),
            f"{group.gain:.4g}",
        )
    gain = f"{matching.objective.after - matching.objective.before:.4g}"
    sure = [""] * (len(_last(found)) - 1)
    table.add_row("all", "", f"{_share_moved(matching):.0%}", *_spans(found.whole), *sure, gain)
    return table


def present_table(groups: Diagnosed) -> Table:
    """Return a row for each group that may move, and one for all of them, nothing moved."""
    found = groups.diagnosis
    table = _table("size", "cosine", "kept", *_last(found)[:-1])
    for group in _movable(groups.measured.groups):
        figures = found.groups[group.name]
        table.add_row(
            escape(group.name), f"{group.size:,}", *_befores(figures), *_sure(figures, found)
        )
    table.add_row("all", "", *_befores(found.whole))
    return table


def legend(found: Diagnosis) -> str:
    """Return what the columns of a table mean."""
    return LEGEND + (MARGINS if _has_margins(found) else "")


def _present(outcome: Compared, groups: Diagnosed) -> Relation:
    return present_relation(groups.diagnosis) if outcome.changes else Relation.EQUAL


def _chance(found: Diagnosis) -> str:
    return f"unrelated weights, matched: up to {found.chance:.3f}"


def _movable(groups: Sequence[GroupChange]) -> Iterator[GroupChange]:
    return (group for group in groups if not group.fixed)


def _share_moved(matching: Matching) -> float:
    units = sum(group.units for group in _movable(matching.groups))
    return sum(group.moved for group in _movable(matching.groups)) / (units or 1)


def _has_margins(found: Diagnosis) -> bool:
    return any(figures.margin for figures in found.groups.values())


def _last(found: Diagnosis) -> tuple[str, ...]:
    return ("margin", "nearest", "gain") if _has_margins(found) else ("gain",)


def _single(figures: UnitFigures) -> dict[str, float | None]:
    cosine, collapse = figures.cosine, figures.collapse
    return {
        "unit_cosine": cosine.before if cosine else None,
        "collapse": collapse.before if collapse else None,
    }


def _margin(margin: Margin | None) -> dict[str, float] | None:
    return {"mean": margin.mean, "nearest": margin.nearest} if margin else None


def _spans(figures: UnitFigures) -> list[str]:
    """Return two cells: cosine, and norm kept, each before and after."""
    changes = figures.cosine, figures.collapse
    return [f"{c.before:.3f} -> {c.after:.3f}" if c else "" for c in changes]


def _befores(figures: UnitFigures) -> list[str]:
    return [f"{c.before:.3f}" if c else "" for c in (figures.cosine, figures.collapse)]


def _sure(figures: UnitFigures, found: Diagnosis) -> list[str]:
    if not _has_margins(found):
        return []
    margin = figures.margin
    return [f"{margin.mean:.3f}", f"{margin.nearest:.0%}"] if margin else ["", ""]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table

"""Where two checkpoints differ, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from rebasin_cli.alignment.unit_comparison import GroupComparison
from rebasin_cli.alignment.unit_report import before_and_after, chance_text, margin_fields
from rebasin_cli.alignment.unit_tables import (
    group_table,
    last_headings,
    legend,
    margin_cells,
    movable_groups,
)
from rebasin_cli.commands.diff.plan import Compared, RotatedFrame
from rebasin_cli.folding.fold_report import tied_lines
from rebasin_cli.folding.rotation_report import maps_text
from rebasin_cli.matching.diagnostics.relation import Relation, present_relation
from rebasin_cli.matching.problem.result import UnitFigures
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.tables import render
from rebasin_cli.wording import count


def compared_text(outcome: Compared) -> str:
    """Return the table of a comparison: a line a tensor that differs, a total, the groups."""
    lines = [*_changes(outcome), _total(outcome)]
    if outcome.frame:
        lines += [f"both folded, B rotated: {maps_text(outcome.frame)}, spec {outcome.frame.spec}"]
        lines += tied_lines(outcome.frame.tied)
    if outcome.groups:
        table = render(present_table(outcome.groups)).rstrip("\n")
        lines += [
            "",
            table,
            legend(outcome.groups.comparison),
            present_line(outcome, outcome.groups),
        ]
    return "\n".join(lines)


def _changes(outcome: Compared) -> Iterator[str]:
    for change in outcome.changes:
        values = f"|A-B| {change.distance:.4g}, |A| {change.norm:.4g}"
        texts = [change.detail, values if change.kind in ("values", "dtype") else ""]
        yield f"{change.name}\t{change.kind}\t{', '.join(t for t in texts if t)}"


def _total(outcome: Compared) -> str:
    if not outcome.changes:
        how = f", to rounding, {outcome.frame.rounding:.2g}" if outcome.frame else ""
        return f"{outcome.a} and {outcome.b} are equal{how}: {count(outcome.tensors, 'tensor')}"
    return (
        f"{len(outcome.changes)} of {count(outcome.tensors, 'tensor')} differ, "
        f"|A-B| {outcome.distance:.4g}, |A| {outcome.norm:.4g}"
    )


def present_fields(outcome: Compared) -> dict[str, Any]:
    """Return what the event of a comparison says under a spec: single figures, nothing moved."""
    groups = outcome.groups
    if groups is None:
        return {}
    found, relation = groups.comparison, _present(outcome, groups)
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
                "margin": margin_fields(found.groups[group.name].margin),
            }
            for group in groups.measured.groups
        ],
    }


def present_line(outcome: Compared, groups: GroupComparison) -> str:
    """Return the figures of two models as they are, under a spec, and the advice."""
    found = groups.comparison
    return (
        f"spec {groups.spec}: objective {groups.measured.objective.before:.4g}, "
        f"cosine {found.cosine.before:.3f} ({chance_text(found)})\n"
        f"advice: {_present(outcome, groups).value}"
    )


def present_table(groups: GroupComparison) -> Table:
    """Return a row for each group that may move, and one for all of them, nothing moved."""
    found = groups.comparison
    table = group_table("size", "cosine", "kept", *last_headings(found)[:-1])
    for group in movable_groups(groups.measured.groups):
        figures = found.groups[group.name]
        table.add_row(
            escape(group.name), f"{group.size:,}", *_befores(figures), *margin_cells(figures, found)
        )
    table.add_row("all", "", *_befores(found.whole))
    return table


def _present(outcome: Compared, groups: GroupComparison) -> Relation:
    return present_relation(groups.comparison) if outcome.changes else Relation.EQUAL


def _single(figures: UnitFigures) -> dict[str, float | None]:
    cosine, collapse = figures.cosine, figures.collapse
    return {
        "unit_cosine": cosine.before if cosine else None,
        "collapse": collapse.before if collapse else None,
    }


def _befores(figures: UnitFigures) -> list[str]:
    return [f"{c.before:.3f}" if c else "" for c in (figures.cosine, figures.collapse)]


def _frame_fields(frame: RotatedFrame | None) -> dict[str, Any]:
    if frame is None:
        return {}
    return {
        "symmetry": "orthogonal",
        "spec": frame.spec,
        "maps": frame.classes,
        "cosine": before_and_after(frame.cosine),
        "sweeps": frame.sweeps,
        "rounding": frame.rounding,
        "tied": frame.tied,
    }


def _compared_fields(outcome: Compared) -> dict[str, Any]:
    return {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "equal": not outcome.changes,
        "tensors": outcome.tensors,
        "distance": outcome.distance,
        "norm": outcome.norm,
        **present_fields(outcome),
        **_frame_fields(outcome.frame),
        "changes": [
            {
                "name": change.name,
                "kind": change.kind,
                "detail": change.detail,
                "distance": change.distance,
                "norm": change.norm,
                "max_difference": change.max_difference,
            }
            for change in outcome.changes
        ],
    }


PRESENTERS: Presenters = {
    Compared: Presenter(
        fields=_compared_fields, text=compared_text, code=lambda outcome: int(bool(outcome.changes))
    )
}

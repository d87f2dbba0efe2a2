"""Series of barriers in words: the fields of events, a table for people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Column

from rebasin_cli.commands.barrier.report import curves_fields
from rebasin_cli.commands.barrier.series.run import JudgedPair, Series
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, render, table
from rebasin_cli.wording import count


def _pair_fields(outcome: JudgedPair) -> dict[str, Any]:
    """Return what the event of a pair says: that of a line, and where it is in the series."""
    return {**_place_fields(outcome), **curves_fields(outcome.curves)}


def _place_fields(outcome: JudgedPair) -> dict[str, Any]:
    pair = outcome.pair
    return {"axis": outcome.axis, "place": pair.place, "elements": pair.elements}


def _pair_summary(outcome: JudgedPair) -> str:
    """Return one line on a pair."""
    a, b = outcome.curves.survey.models
    state = "" if outcome.curves.survey.complete else "not finished: "
    found = [
        f"{each.score}, {each.curve} {height_text(each.barrier.chord.height)}"
        for each in outcome.curves.barriers
    ]
    barriers = f": barrier of {'; '.join(found)}" if found else ""
    return f"{state}{outcome.axis} {outcome.pair.place:g}, {a} and {b}{barriers}"


def _series_fields(outcome: Series) -> dict[str, Any]:
    """Return what the event of the series says: the barriers by place; its pairs went before."""
    return {
        "axis": outcome.plan.axis,
        "pair_by": outcome.plan.pair_by,
        "align_by": outcome.plan.align_by,
        "complete": outcome.complete,
        "series": [
            {
                "curve": name,
                "score": score,
                "chord": [
                    {"place": place, "height": height}
                    for place, height in outcome.heights(name, score).items()
                ],
            }
            for score in outcome.scores
            for name in outcome.names
        ],
        "pairs": len(outcome.pairs),
        "notes": outcome.remarks(lambda curves: curves.survey.notes),
        "hints": outcome.remarks(lambda curves: curves.survey.hints),
        "seconds": outcome.seconds,
    }


def _series_text(outcome: Series) -> str:
    """Return the table of a series: a row for each pair, a column for each barrier."""
    columns = [(name, score) for score in outcome.scores for name in outcome.names]
    headings = (f"{escape(score)},\n{escape(name)}" for name, score in columns)
    rows = table(
        Column(f"barrier of\n{escape(outcome.plan.axis)}", no_wrap=True),
        *number_columns(*headings, no_wrap=True),
    )
    for pair in outcome.pairs:
        heights = (pair.height(*column) for column in columns)
        rows.add_row(f"{pair.pair.place:g}", *map(height_text, heights))
    return render(rows).rstrip("\n")


def height_text(height: float | None) -> str:
    """Return a barrier in four digits; empty where none was measured."""
    return "" if height is None else f"{height:.4g}" if height else "none"


def _series_summary(outcome: Series) -> str:
    """Return what a person wants to know beside the table."""
    surveys = [pair.curves.survey for pair in outcome.pairs]
    points, reused = sum(len(s.points) for s in surveys), sum(s.reused for s in surveys)
    state = "" if outcome.complete else "not finished: "
    lines = [
        f"{state}{count(len(outcome.pairs), 'pair')} by {outcome.plan.pair_by}, {points} points, "
        f"{points - reused} of them judged now, {outcome.seconds:.1f} s"
    ]
    lines += [f"note: {note}" for note in outcome.remarks(lambda curves: curves.survey.notes)]
    lines += [f"hint: {hint}" for hint in outcome.remarks(lambda curves: curves.survey.hints)]
    return "\n".join(lines)


SERIES: Presenters = {
    JudgedPair: Presenter(fields=_pair_fields, text=lambda outcome: "", summary=_pair_summary),
    Series: Presenter(fields=_series_fields, text=_series_text, summary=_series_summary),
}

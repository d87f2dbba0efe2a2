"""Curves between models in words: the fields of events, tables for people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.commands.barrier.curve import Peak, sign
from rebasin_cli.commands.barrier.layers.figures import DiagnosedLayers
from rebasin_cli.commands.barrier.layers.report import (
    diagnosis_fields,
    diagnosis_summary,
    diagnosis_text,
)
from rebasin_cli.commands.barrier.scored_points import Contour, Curves, JudgedPoints, Scored
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.network.scoring.ensemble import Ensemble
from rebasin_cli.pictures.report import DRAWING
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, render, table


def curves_fields(outcome: Curves) -> dict[str, Any]:
    """Return what the event of a finished line says: the barriers; its points went before."""
    return {
        **_survey_fields(outcome.survey),
        "curves": list(outcome.names),
        **_ensemble_fields(outcome),
        "barriers": [
            {
                "curve": found.curve,
                "score": found.score,
                "chord": _peak_fields(found.barrier.chord, found.chord_removed),
                "mean": _peak_fields(found.barrier.mean, found.mean_removed),
            }
            for found in outcome.barriers
        ],
    }


def _ensemble_fields(outcome: Curves) -> dict[str, Any]:
    """Return the scores of the ensemble, or null and the reason."""
    found = outcome.ensemble
    if found is None:
        return {"ensemble": None}
    return {
        "ensemble": dict(found.scores) or None,
        **({"no_ensemble": found.reason} if found.reason else {}),
    }


def _ensemble_table(found: Ensemble) -> Table:
    """Return a row with the scores of the ensemble."""
    rows = _table("", *map(escape, found.scores))
    rows.add_row("ensemble", *map(_number, found.scores.values()))
    return rows


def _curves_summary(outcome: Curves) -> str:
    """Return what a person wants to know beside the tables of a line."""
    lines = [_survey_summary(outcome.survey)]
    if outcome.ensemble and outcome.ensemble.reason:
        lines.append(f"no ensemble: {outcome.ensemble.reason}")
    return "\n".join(lines)


def _contour_fields(outcome: Contour) -> dict[str, Any]:
    """Return what the event of a finished plane says: where the models are, and the best place."""
    lowest = {name: best_place(outcome, name) for name in outcome.survey.scores if sign(name)}
    return {
        **_survey_fields(outcome.survey),
        "corners": [list(corner) for corner in outcome.plane.corners],
        "best": {
            name: {"x": place[0], "y": place[1], "value": place[2]}
            for name, place in lowest.items()
            if place
        },
    }


def _curves_text(outcome: Curves) -> str:
    """Return the table of a line: a row for each alpha; then the barriers."""
    tables = [render(_points(outcome))]
    if outcome.barriers:
        tables.append(render(barrier_table(outcome)))
    if outcome.ensemble and outcome.ensemble.scores:
        tables.append(render(_ensemble_table(outcome.ensemble)))
    return "\n".join(tables).rstrip("\n")


def _contour_text(outcome: Contour) -> str:
    """Return the table of a plane: a row for each point, the three models first."""
    scores = outcome.survey.scores
    rows = _table("x", "y", "A", "B", "C", *map(escape, scores))
    for point in outcome.survey.points:
        at = point.mixture.at or (0.0, 0.0)
        weights = [f"{weight:.4f}" for weight in point.mixture.weights]
        values = [_number(point.scores.get(score)) for score in scores]
        rows.add_row(f"{at[0]:.4f}", f"{at[1]:.4f}", *weights, *values)
    return render(rows).rstrip("\n")


def _survey_summary(survey: JudgedPoints) -> str:
    """Return what a person wants to know beside the table."""
    judged = len(survey.points) - survey.reused
    state = "" if survey.complete else "not finished: "
    lines = [
        f"{state}{len(survey.points)} points, {judged} of them judged now, {survey.seconds:.1f} s"
    ]
    lines += [f"note: {note}" for note in survey.notes]
    lines += [f"hint: {hint}" for hint in survey.hints]
    return "\n".join(lines)


def _contour_summary(outcome: Contour) -> str:
    """Return the best places of a plane, and what else is to be said."""
    lines = []
    for name in (name for name in outcome.survey.scores if sign(name)):
        place = best_place(outcome, name)
        if place:
            word = "lowest" if sign(name) > 0 else "highest"
            lines.append(f"{word} {name} {_number(place[2])} at x {place[0]:.4g}, y {place[1]:.4g}")
    return "\n".join([*lines, _survey_summary(outcome.survey)])


def barrier_table(outcome: Curves) -> Table:
    """Return a row for each curve and score, both definitions of the barrier side by side."""
    rows = _table(
        "barrier", "from\nthe chord", "\nremoved", "from the mean\nof the ends", "\nremoved"
    )
    for found in outcome.barriers:
        rows.add_row(
            escape(f"{found.score}, {found.curve}"),
            _height(found.barrier.chord),
            _share(found.chord_removed),
            _height(found.barrier.mean),
            _share(found.mean_removed),
        )
    return rows


def best_place(outcome: Contour, score: str) -> tuple[float, float, float] | None:
    """Return x, y and value of the best point that was judged."""
    known = [p for p in outcome.survey.points if score in p.scores and p.mixture.at]
    best = min(known, key=lambda p: sign(score) * p.scores[score], default=None)
    return (*best.mixture.at, best.scores[score]) if best and best.mixture.at else None


def _points(outcome: Curves) -> Table:
    columns = [(name, score) for name in outcome.names for score in outcome.survey.scores]
    values = [outcome.curve(name, score) for name, score in columns]
    rows = _table("alpha", *(f"{escape(name)}\n{escape(score)}" for name, score in columns))
    alphas = sorted({alpha for curve in values for alpha in curve})
    for alpha in alphas:
        rows.add_row(f"{alpha:.4f}", *(_number(curve.get(alpha)) for curve in values))
    return rows


def _height(peak: Peak) -> str:
    return f"{peak.height:.4g} at {peak.alpha:.4g}" if peak.height else "none"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _survey_fields(survey: JudgedPoints) -> dict[str, Any]:
    return {
        "models": [str(path) for path in survey.models],
        "complete": survey.complete,
        "points": len(survey.points),
        "reused": survey.reused,
        "notes": list(survey.notes),
        "hints": list(survey.hints),
        "seconds": survey.seconds,
    }


def _peak_fields(peak: Peak, share: float | None) -> dict[str, Any]:
    return {"height": peak.height, "alpha": peak.alpha, "removed": share}


def _number(value: float | None) -> str:
    """Return a figure with six digits behind the point, or four in all where it is large."""
    if value is None:
        return ""
    return f"{value:.6f}" if abs(value) < 1e4 else f"{value:.4g}"


def _table(first: str, *others: str) -> Table:
    return table(Column(first, no_wrap=True), *number_columns(*others, no_wrap=True))


PRESENTERS: Presenters = {
    **PERMUTING,
    **ROTATING,
    Scored: Presenter(fields=lambda outcome: outcome.fields(), text=lambda outcome: ""),
    Curves: Presenter(
        fields=curves_fields,
        text=_curves_text,
        summary=_curves_summary,
    ),
    Contour: Presenter(fields=_contour_fields, text=_contour_text, summary=_contour_summary),
    **DRAWING,
    DiagnosedLayers: Presenter(
        fields=diagnosis_fields, text=diagnosis_text, summary=diagnosis_summary
    ),
}

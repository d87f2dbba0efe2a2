"""A page of HTML with a picture and its numbers; it needs no other file and no script."""

from __future__ import annotations

from html import escape

from rebasin_cli.commands.barrier.scored_points import Contour, Curves
from rebasin_cli.pictures.html_document import document, paragraphs, picture, table
from rebasin_cli.pictures.model_names import model_names


def page(svg: str, outcome: Curves | Contour) -> str:
    """Return the page of curves or of a plane. svg: its picture."""
    title = " and ".join(map(escape, model_names(outcome.survey.models)))
    contour = isinstance(outcome, Contour)
    rows = _places(outcome) if isinstance(outcome, Contour) else _points(outcome)
    notes = [*outcome.survey.notes, *outcome.survey.hints]
    heading = f"{'The plane through' if contour else 'Between'} {title}"
    parts = [
        f"<h1>{heading}</h1>",
        picture(svg, f"{heading}: the points below as a picture"),
        *paragraphs(notes),
        _barriers(outcome) if isinstance(outcome, Curves) else "",
        _ensemble(outcome) if isinstance(outcome, Curves) else "",
        f"<h2>Points</h2>\n{table(rows)}",
    ]
    return document(title, parts)


def _barriers(outcome: Curves) -> str:
    if not outcome.barriers:
        return ""
    rows = [["curve", "score", "barrier", "at", "removed", "from the mean of the ends", "removed"]]
    for found in outcome.barriers:
        chord, mean = found.barrier.chord, found.barrier.mean
        rows.append(
            [
                found.curve,
                found.score,
                f"{chord.height:.6g}",
                f"{chord.alpha:.4g}",
                _share(found.chord_removed),
                f"{mean.height:.6g}",
                _share(found.mean_removed),
            ]
        )
    return f"<h2>Barriers</h2>\n{table(rows)}"


def _ensemble(outcome: Curves) -> str:
    """Return the scores of the ensemble, empty if it has none."""
    scores = outcome.ensemble.scores if outcome.ensemble else {}
    if not scores:
        return ""
    return f"<h2>Ensemble</h2>\n{table([[*scores], [_number(v) for v in scores.values()]])}"


def _points(outcome: Curves) -> list[list[str]]:
    columns = [(name, score) for name in outcome.names for score in outcome.survey.scores]
    values = [outcome.curve(*column) for column in columns]
    rows = [["alpha", *(f"{name} {score}" for name, score in columns)]]
    for alpha in sorted({alpha for curve in values for alpha in curve}):
        rows.append([f"{alpha:.6g}", *(_number(curve.get(alpha)) for curve in values)])
    return rows


def _places(outcome: Contour) -> list[list[str]]:
    scores = outcome.survey.scores
    rows = [["x", "y", "A", "B", "C", *scores]]
    for point in outcome.survey.points:
        numbers = [*(point.mixture.at or ()), *point.mixture.weights]
        values = (point.scores.get(score) for score in scores)
        rows.append([*(f"{n:.6g}" for n in numbers), *map(_number, values)])
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"

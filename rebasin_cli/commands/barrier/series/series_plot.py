"""The picture of a series: barriers against what tells the pairs apart."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from math import log
from typing import Any

from rebasin_cli.commands.barrier.plot import SIZE, STYLES
from rebasin_cli.commands.barrier.series.report import height_text
from rebasin_cli.commands.barrier.series.run import Series
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.pictures.drawing import Drawn, frame_lightly, matplotlib, write_drawing
from rebasin_cli.pictures.html_document import document, paragraphs, picture, table

PANELS = 4
APART = 0.05  # of the axis: places that are nearer to each other are not written one by one


def draw_series(outcome: Series, place: OutputPlace) -> Drawn:
    """Write the picture of a series, in the format of the ending."""
    figure = series_figure(outcome)
    return Drawn(write_drawing(figure, place, lambda svg: _page(svg, outcome)))


def series_figure(outcome: Series) -> Any:
    """Return the matplotlib figure of a series: a panel for each score, at most four."""
    scores = outcome.scores[:PANELS]
    figure = matplotlib("figure").Figure(
        figsize=(SIZE[0] * max(1, len(scores)), SIZE[1]), layout="constrained"
    )
    panels = figure.subplots(1, max(1, len(scores)), squeeze=False)[0]
    for axes, score in zip(panels, scores, strict=False):
        _barriers(axes, outcome, score)
    return figure


def _barriers(axes: Any, outcome: Series, score: str) -> None:
    """Draw the barriers of all curves by one score."""
    for name, style in zip(outcome.names, STYLES, strict=False):
        heights = outcome.heights(name, score)
        axes.plot(
            list(heights), list(heights.values()), label=name, **style, markersize=5, clip_on=False
        )
    axes.set_xlabel(outcome.plan.axis)
    axes.set_ylabel(f"barrier of {score}")
    _scale(axes, outcome)
    axes.set_ylim(bottom=0)
    frame_lightly(axes)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def _scale(axes: Any, outcome: Series) -> None:
    """Show sizes of models on a scale of factors, and the place of each pair if there is room."""
    places = sorted(pair.pair.place for pair in outcome.pairs)
    factors = outcome.plan.wide and places[0] > 0
    if factors:
        axes.set_xscale("log", base=2)
    along = list(map(log, places)) if factors else places
    if all(b - a >= APART * (along[-1] - along[0]) for a, b in pairwise(along)):
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()


def _page(svg: str, outcome: Series) -> str:
    """Return the page around a picture: its figures, and what else is to be said."""
    title = escape(f"Barriers by {outcome.plan.axis}")
    columns = [(name, score) for score in outcome.scores for name in outcome.names]
    rows = [[outcome.plan.axis, "A", "B", *(f"{score}, {name}" for name, score in columns)]]
    for pair in outcome.pairs:
        names = map(str, pair.curves.survey.models)
        heights = (height_text(pair.height(*column)) for column in columns)
        rows.append([f"{pair.pair.place:g}", *names, *heights])
    notes = outcome.remarks(lambda curves: (*curves.survey.notes, *curves.survey.hints))
    parts = [
        f"<h1>{title}</h1>",
        picture(svg, f"{title}, drawn from the table below"),
        *paragraphs(notes),
        f"<h2>Pairs</h2>\n{table(rows)}",
    ]
    return document(title, parts)

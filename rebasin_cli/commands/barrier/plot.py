"""Pictures of curves and of planes, and the pages of HTML with a picture and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.barrier.curve import Peak, chord, sign
from rebasin_cli.commands.barrier.scored_points import Contour, Curves, FoundBarrier
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.pictures.drawing import Drawn, frame_lightly, matplotlib, write_drawing
from rebasin_cli.pictures.html_document import document, paragraphs, picture, table
from rebasin_cli.pictures.model_names import model_names

BarStyle = Mapping[str, Any]

# Okabe and Ito's colours, told apart by most colour-blind people, from light and on grey paper.
STYLES = (
    {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    {"color": "#009E73", "linestyle": "-", "marker": "^"},
)
# Barriers of several curves often stand at one place: the later ones are narrower, and in front.
BARS: tuple[BarStyle, ...] = (
    {"color": "#F4C7A6", "linewidth": 9},
    {"color": "#8FC1E0", "linewidth": 5},
    {"color": "#7CCBB2", "linewidth": 2},
)
DOTS = 60  # points of a curve that are marked one by one
SIZE = (6.4, 4.4)  # inches, of one panel
LEVELS = 20
LONGEST = 28  # letters of a model's name below an axis
ENSEMBLE_LINE = {"color": "#000000", "linestyle": "--", "linewidth": 1.2, "zorder": 2}


def draw(outcome: Curves | Contour, place: OutputPlace) -> Drawn:
    """Write the picture of an outcome, in the format of the ending."""
    return Drawn(write_figure(figure_of(outcome), outcome, place))


def figure_of(outcome: Curves | Contour) -> Any:
    """Return the matplotlib figure of an outcome: a panel for each score, at most four."""
    scores = outcome.survey.scores[:4]
    figure = matplotlib("figure").Figure(
        figsize=(SIZE[0] * len(scores), SIZE[1]), layout="constrained"
    )
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        if isinstance(outcome, Contour):
            _contour(figure, axes, outcome, score)
        else:
            _curves(axes, outcome, score)
    return figure


def write_figure(figure: Any, outcome: Curves | Contour, place: OutputPlace) -> Written:
    """Write the figure of an outcome, whole or not at all."""
    return write_drawing(figure, place, lambda svg: _page(svg, outcome))


def _curves(axes: Any, outcome: Curves, score: str) -> None:
    """Draw one score of all curves, the line between the ends, and each barrier."""
    barriers = {found.curve: found for found in outcome.barriers if found.score == score}
    names = [name for name in outcome.names if outcome.curve(name, score)]
    for name, style, bar in zip(names, STYLES, BARS, strict=False):
        curve = outcome.curve(name, score)
        marker = style["marker"] if len(curve) <= DOTS else ""
        look = {**style, "marker": marker, "markersize": 4, "linewidth": 1.6}
        axes.plot(list(curve), list(curve.values()), label=_label(name, barriers), **look)
        if name in barriers:
            _mark(axes, curve, barriers[name].barrier.chord, sign(score), bar)
    _ends(axes, outcome.curve(names[0], score), outcome.survey.models)
    if outcome.ensemble and score in outcome.ensemble.scores:
        value = outcome.ensemble.scores[score]
        axes.axhline(value, label=f"ensemble: {value:.4g}", **ENSEMBLE_LINE)
    axes.set_ylabel(score)
    frame_lightly(axes)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)


def _label(name: str, barriers: dict[str, FoundBarrier]) -> str:
    if name not in barriers:
        return name
    peak = barriers[name].barrier.chord
    place = f" at {peak.alpha:.3g}" if peak.height else ""
    return f"{name}: barrier {peak.height:.3g}{place}"


def _mark(axes: Any, curve: dict[float, float], peak: Peak, sign: int, bar: BarStyle) -> None:
    """Draw the barrier as a bar from the line between the ends to the curve."""
    if not peak.height:
        return
    foot = curve[peak.alpha] - sign * peak.height
    axes.vlines(peak.alpha, foot, curve[peak.alpha], zorder=1, **bar)


def _ends(axes: Any, curve: dict[float, float], models: Sequence[Path]) -> None:
    """Mark the two models and draw the line between them."""
    if {0.0, 1.0} <= curve.keys():
        ends = curve[0.0], curve[1.0]
        line = [chord(*ends, alpha) for alpha in (0.0, 1.0)]
        axes.plot([0, 1], line, color="#555555", linestyle=":", linewidth=1.2, zorder=1)
        look = {"color": "white", "markeredgecolor": "black", "zorder": 5}
        axes.plot([0, 1], ends, "D", label="the two models", **look)
    low, high = min(curve), max(curve)
    axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    a, b = model_names(models, LONGEST)
    axes.set_xlabel(f"alpha\n0 is {a}, 1 is {b}")


def _contour(figure: Any, axes: Any, outcome: Contour, score: str) -> None:
    """Draw one score over the plane, filled between levels, and the three models."""
    grid = outcome.grid(score)
    xs, ys = sorted({x for x, _, _ in grid}), sorted({y for _, y, _ in grid})
    heights = {(x, y): value for x, y, value in grid}
    rows = [[heights[x, y] for x in xs] for y in ys]
    colours = "viridis_r" if sign(score) >= 0 else "viridis"
    filled = axes.contourf(xs, ys, rows, levels=LEVELS, cmap=colours)
    axes.contour(xs, ys, rows, levels=LEVELS, colors="white", linewidths=0.3, alpha=0.6)
    figure.colorbar(filled, ax=axes, label=score)
    for corner, name in zip(outcome.plane.corners, "ABC", strict=True):
        axes.plot(*corner, "o", color="white", markeredgecolor="black", markersize=8, zorder=5)
        axes.annotate(
            name,
            corner,
            xytext=(7, 7),
            textcoords="offset points",
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
            zorder=6,
        )
    axes.set_aspect("equal")
    axes.set_xlabel("distance in weights, from A towards B")
    axes.set_ylabel("distance, across")
    named = zip("ABC", model_names(outcome.survey.models, LONGEST), strict=True)
    names = "\n".join(f"{letter}  {name}" for letter, name in named)
    axes.set_title(names, fontsize=9, loc="left")


def _page(svg: str, outcome: Curves | Contour) -> str:
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

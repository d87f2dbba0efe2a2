"""The picture of the layers between two models: lines over depth."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from html import escape
from typing import Any

from rebasin_cli.commands.barrier.layers.figures import DiagnosedLayers, LayerFigures
from rebasin_cli.commands.barrier.layers.report import Figure, advice, shown_columns
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.pictures.drawing import Drawn, frame_lightly, write_drawing
from rebasin_cli.pictures.html_document import document, paragraphs, picture, table
from rebasin_cli.pictures.model_names import model_names

# Okabe and Ito's colours, as in the other pictures.
STYLES = (
    {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    {"color": "#0072B2", "marker": "s", "linestyle": "-"},
    {"color": "#009E73", "marker": "^", "linestyle": "--"},
    {"color": "#CC79A7", "marker": "D", "linestyle": "--"},
)
INCHES = 0.32  # of width for each layer
NARROWEST, WIDEST, HEIGHT = 6.4, 20.0, 4.8
NAMED = 60  # layers up to which each is named


def draw_layers(outcome: DiagnosedLayers, place: OutputPlace) -> Drawn:
    """Write the picture of the layers, in the format of the ending."""
    return Drawn(write_drawing(layers_figure(outcome), place, lambda svg: _page(svg, outcome)))


def layers_figure(outcome: DiagnosedLayers) -> Any:
    """Return the matplotlib figure: what becomes of the midpoint, and how alike the parents are."""
    layers = outcome.diagnosis.layers
    width = min(max(NARROWEST, INCHES * len(layers) + 2), WIDEST)
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(width, 2 * HEIGHT * 0.8), layout="constrained"
    )
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.suptitle(f"halfway between {_names(outcome)}", fontsize=10)
    columns = shown_columns(outcome.diagnosis)
    of_midpoint = [k for k, (name, _) in enumerate(columns) if name.endswith("ratio")]
    of_parents = [k for k in range(len(columns)) if k not in of_midpoint]
    _lines(top, layers, [(columns[k], STYLES[k]) for k in of_midpoint])
    top.axhline(1, color="#555555", linestyle=":", linewidth=1.2)
    _scale(top, layers, [columns[k][1] for k in of_midpoint])
    top.set_ylabel("midpoint / parents")
    _lines(bottom, layers, [(columns[k], STYLES[k]) for k in of_parents])
    bottom.set_ylabel("between the parents")
    bottom.set_ylim(min(0, bottom.get_ylim()[0]), 1.03)
    _name_layers(bottom, layers)
    return figure


def _lines(axes: Any, layers: Sequence[LayerFigures], drawn: Sequence[Any]) -> None:
    for (name, figure), style in drawn:
        known = [
            (k, value) for k, layer in enumerate(layers) if (value := figure(layer)) is not None
        ]
        axes.plot(*zip(*known, strict=True), label=name, markersize=4, linewidth=1.6, **style)
    frame_lightly(axes)
    if drawn:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)


def _scale(axes: Any, layers: Sequence[LayerFigures], figures: Sequence[Figure]) -> None:
    """Show ratios that go over more than a factor of ten on a scale of factors."""
    values = [value for figure in figures for layer in layers if (value := figure(layer))]
    if values and min(values) < 0.1:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)


def _name_layers(axes: Any, layers: Sequence[LayerFigures]) -> None:
    if len(layers) > NAMED:
        axes.set_xlabel("layer, in the order of the calls")
        return
    axes.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize=8)


def _names(outcome: DiagnosedLayers) -> str:
    aligned = " (aligned)" if outcome.aligned else ""
    return " and ".join(model_names(outcome.models)) + aligned


def _page(svg: str, outcome: DiagnosedLayers) -> str:
    title = escape(_names(outcome))
    columns = shown_columns(outcome.diagnosis)
    rows = [["layer", "kind", "units", *(name for name, _ in columns)]]
    for layer in outcome.diagnosis.layers:
        values = [figure(layer) for _, figure in columns]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        rows.append([layer.name, layer.kind, str(layer.units), *cells])
    parts = [
        f"<h1>Layers halfway between {title}</h1>",
        picture(svg, f"layers halfway between {title}: the table below as a picture"),
        *paragraphs([advice(outcome.diagnosis)]),
        table(rows),
    ]
    return document(title, parts)

"""What correcting the statistics of layers did, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from rebasin_cli.presentation.tables import number_columns, table
from rebasin_cli.renormalization.corrected import CorrectionReport
from rebasin_cli.wording import AND_SO_ON, count, list_names

_SHOWN = 3  # names of layers in a line


def report_fields(report: CorrectionReport) -> dict[str, Any]:
    """Return what an event says of the layers."""
    return {
        "method": report.method,
        "layers": [
            {
                "name": layer.name,
                "how": layer.how,
                "deviation": {"before": layer.before, "after": layer.after, "goal": layer.goal},
            }
            for layer in report.corrected
        ],
        "skipped": [{"name": layer.name, "why": layer.why} for layer in report.skipped],
    }


def report_lines(report: CorrectionReport) -> list[str]:
    """Return a line for each thing that was done to layers, and for each reason to do nothing."""
    how = Counter(layer.how.split(" at depth ")[0] for layer in report.corrected)
    noun = "bias" if report.method == "calibrate" else "layer"
    lines = [f"  {count(number, noun)}: {what}" for what, number in how.items()]
    return [*lines, *_skipped_lines(report)]


def _skipped_lines(report: CorrectionReport) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for layer in report.skipped:
        reasons.setdefault(layer.why, []).append(layer.name)
    for why, names in reasons.items():
        left = "left as it was" if len(names) == 1 else "left as they were"
        shown = list_names(names, _SHOWN, rest=AND_SO_ON)
        yield f"  {count(len(names), 'layer')} {left}, {why}: {shown}"


def layer_details(report: CorrectionReport) -> list[RenderableType]:
    """Return a table with a row a layer: its deviation before, after, and that of the parents."""
    layers = table("layer", *number_columns("std before", "after", "goal"), "what was done")
    for layer in report.corrected:
        numbers = (layer.before, layer.after, layer.goal)
        cells = ["" if number is None else f"{number:.4g}" for number in numbers]
        layers.add_row(escape(layer.name), *cells, layer.how)
    return [layers]

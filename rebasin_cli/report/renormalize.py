"""What correcting the statistics of a merged model did, for people and for programs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rebasin_cli.evaluate.correcting import Report
from rebasin_cli.plan.outcome import Merged
from rebasin_cli.plan.renormalize_outcome import Renormalized
from rebasin_cli.report.words import count

_SHOWN = 3  # names of layers in a line


def renormalize_fields(outcome: Renormalized) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    return {
        "model": str(outcome.model),
        "parents": [
            {"path": str(parent.path), "weight": parent.weight, "basin": parent.basin}
            for parent in outcome.parents
        ],
        "spec": outcome.spec,
        **report_fields(outcome.report),
        "seconds": outcome.seconds,
    }


def report_fields(report: Report) -> dict[str, Any]:
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


def renormalize_summary(outcome: Renormalized) -> str:
    """Return what a person wants to know."""
    lines = [f"{outcome.model} renormalized by {outcome.report.method}"]
    for parent in outcome.parents:
        lines.append(f"  parent {parent.path}, weight {parent.weight:g}: {parent.basin}")
    lines += report_lines(outcome.report)
    lines += [f"  {outcome.assumed}"] if outcome.assumed else []
    spec = f"spec {outcome.spec}, " if outcome.spec else ""
    return "\n".join([*lines, f"  {spec}{outcome.seconds:.1f} s"])


def merged_lines(outcome: Merged) -> list[str]:
    """Return what to say of the statistics of an average."""
    if outcome.report:
        return [f"  renormalized by {outcome.report.method}:", *report_lines(outcome.report)]
    if not outcome.stale:
        return []
    command = f"rebasin renormalize {outcome.written.path} --method reset --model ... --data ..."
    return [f"  BatchNorm statistics do not fit an average: {command}"]


def report_lines(report: Report) -> list[str]:
    """Return a line for each thing that was done to layers, and for each reason to do nothing."""
    how = Counter(layer.how.split(" at depth ")[0] for layer in report.corrected)
    noun = "bias" if report.method == "calibrate" else "layer"
    lines = [f"  {count(number, noun)} {what}" for what, number in how.items()]
    return [*lines, *_skipped(report)]


def _skipped(report: Report) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for layer in report.skipped:
        reasons.setdefault(layer.why, []).append(layer.name)
    for why, names in reasons.items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        left = "left as it was" if len(names) == 1 else "left as they were"
        yield f"  {count(len(names), 'layer')} {left}, {why}: {shown}"


def print_layers(report: Report) -> None:
    """Print one row a layer on stderr: its deviation before, after, and that of the parents."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for heading in ("std before", "after", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("what was done")
    for layer in report.corrected:
        numbers = (layer.before, layer.after, layer.goal)
        cells = ["" if number is None else f"{number:.4g}" for number in numbers]
        table.add_row(escape(layer.name), *cells, layer.how)
    width = None if sys.stderr.isatty() else 200
    Console(stderr=True, highlight=False, width=width).print(table)

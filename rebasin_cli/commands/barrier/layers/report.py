"""The layers halfway between two models in words: fields, a table, and what to do about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.commands.barrier.layers.figures import (
    DiagnosedLayers,
    LayerDiagnosis,
    LayerFigures,
)
from rebasin_cli.presentation.tables import number_columns, render, table

KEPT = 0.8  # of the parents' variance: above it little is lost
FALLEN = 0.5  # below it that matters more than how well the parents match
ALIKE = 0.7  # linear CKA from which two layers say much the same
MATCHED = 0.5  # correlation of paired units from which they say much the same

Figure = Callable[[LayerFigures], float | None]
COLUMNS: tuple[tuple[str, Figure], ...] = (
    ("variance ratio", lambda layer: layer.variance),
    ("response ratio", lambda layer: layer.response),
    ("CKA of parents", lambda layer: layer.similarity),
    ("matched correlation", lambda layer: layer.correlation),
)
LEGEND = (
    "variance ratio: variance of the midpoint's activations over the mean of the parents'; "
    "response ratio: the same of |f(x) - f(0)|; CKA: what the parents have in common in any order "
    "of units; matched correlation: of each unit with its partner"
)


def diagnosis_fields(outcome: DiagnosedLayers) -> dict[str, Any]:
    """Return what the event of a diagnosis says."""
    found = outcome.diagnosis
    names = ("a", "b", "midpoint")
    errors = dict(zip(names, found.calibration, strict=True)) if found.calibration else None
    return {
        "models": [str(path) for path in outcome.models],
        "aligned": outcome.aligned,
        "layers": [asdict(layer) for layer in found.layers],
        "calibration": errors,
        "no_response": found.no_zero or None,
        "advice": advice(found),
        "seconds": outcome.seconds,
    }


def diagnosis_text(outcome: DiagnosedLayers) -> str:
    """Return the table of layers, and the calibration of the models."""
    layers = f"\n{render(_layers(outcome.diagnosis))}".rstrip("\n")  # apart from the curves
    return "\n".join(filter(None, [layers, _calibration(outcome)]))


def diagnosis_summary(outcome: DiagnosedLayers) -> str:
    """Return what a person wants to know beside the table; the advice comes last."""
    found = outcome.diagnosis
    missing = f"no response ratio: {found.no_zero}" if found.no_zero else ""
    return "\n".join(filter(None, [LEGEND, missing, advice(found)]))


def shown_columns(found: LayerDiagnosis) -> list[tuple[str, Figure]]:
    """Return the figures that some layer has."""
    return [c for c in COLUMNS if any(c[1](layer) is not None for layer in found.layers)]


def advice(found: LayerDiagnosis) -> str:
    """Return what the figures say and what to do, in a sentence."""
    fine = "the midpoint's activations are like the parents'"
    return _collapse(found, FALLEN) or _mismatch(found) or _collapse(found, KEPT) or fine


def _collapse(found: LayerDiagnosis, limit: float) -> str:
    """Return what to do where the variance of the last layer has changed by more than a limit."""
    varying = [layer for layer in found.layers if layer.variance is not None]
    if not varying:
        return ""
    last = varying[-1]
    ratio = last.variance or 0.0
    if limit <= ratio <= 1 / limit:
        return ""
    normed = any(layer.norm for layer in found.layers)
    method = "reset" if normed else "rescale"
    move = "falls" if ratio < 1 else "rises"
    why = ", and the statistics of BatchNorm no longer fit" if normed else ""
    return (
        f"variance {move} to {ratio:.2g} of the parents' by the last layer, {last.name}{why}: "
        f"renormalize, as `rebasin renormalize --method {method}` does"
    )


def _mismatch(found: LayerDiagnosis) -> str:
    """Return what to do where the parents differ, by the hidden layer that is worst."""
    hidden = [layer for layer in found.layers[:-1] if layer.correlation is not None]
    if not hidden:
        return ""
    worst = min(hidden, key=lambda layer: layer.correlation or 0.0)
    correlation, similarity = worst.correlation or 0.0, worst.similarity
    if correlation >= MATCHED or similarity is None:
        return ""
    if similarity < ALIKE:
        return (
            f"the parents differ at {worst.name} (CKA {similarity:.2g}) in more than the order of "
            "their units: no alignment makes them one"
        )
    return (
        f"at {worst.name} the parents say the same (CKA {similarity:.2g}), but not unit by unit "
        f"(correlation {correlation:.2g}): align them with --effort best, or merge units that "
        "are mixed (`rebasin merge --method zipit`)"
    )


def _layers(found: LayerDiagnosis) -> Table:
    columns = shown_columns(found)
    text = [Column(heading, no_wrap=True) for heading in ("layer", "kind")]
    layers = table(*text, *number_columns("units", *(name for name, _ in columns)))
    for layer in found.layers:
        cells = [_number(figure(layer)) for _, figure in columns]
        layers.add_row(escape(layer.name), layer.kind, str(layer.units), *cells)
    return layers


def _calibration(outcome: DiagnosedLayers) -> str:
    if outcome.diagnosis.calibration is None:
        return ""
    a, b, midpoint = outcome.diagnosis.calibration
    return f"expected calibration error: A {a:.4f}, B {b:.4f}, midpoint {midpoint:.4f}"


def _number(value: float | None) -> str:
    """Return a ratio with four digits; small ones keep two that count."""
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"

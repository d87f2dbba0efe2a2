"""What correcting the statistics of a merged model did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint import Written
from rebasin_cli.evaluate.correcting import Report


@dataclass(frozen=True)
class Parent:
    """A model that another is a mean of. basin: how it came into the basin of the merged one."""

    path: Path
    weight: float
    basin: str


@dataclass(frozen=True)
class Renormalized:
    """A merged model whose statistics were corrected inside its own weights.

    spec: what the parents were aligned under, None if they were not. assumed: what the depths of
    `calibrate` take for granted.
    """

    model: Path
    parents: tuple[Parent, ...]
    report: Report
    spec: str | None
    assumed: str
    written: Written
    seconds: float

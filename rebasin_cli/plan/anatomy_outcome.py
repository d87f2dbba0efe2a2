"""What `rebasin barrier --diagnose` finds in the layers of two models and their midpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.evaluate.diagnosis import Anatomy


@dataclass(frozen=True)
class Anatomized:
    """The layers halfway between two models. aligned: they were, here or before."""

    models: tuple[Path, ...]
    anatomy: Anatomy
    aligned: bool
    seconds: float

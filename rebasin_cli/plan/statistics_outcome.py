"""What `rebasin statistics` did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint import Written


@dataclass(frozen=True)
class Observed:
    """A file of statistics that was written.

    samples: at the place that has most. groups: whose units it tells of, by name: their number.
    unseen: groups of which it does not.
    """

    models: tuple[Path, ...]
    spec: str
    moment: str
    samples: int
    groups: Mapping[str, int]
    unseen: tuple[str, ...]
    written: Written
    seconds: float

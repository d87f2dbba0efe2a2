"""What merging hidden units by linear maps did, besides what every merge does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Zipped:
    """Groups that were merged by linear maps, and the others, with the reason of each.

    method: a key of LINEAR. samples: that the maps of each group are drawn from. inside: units
    that share their place with another of their own model.
    """

    method: str
    groups: tuple[str, ...]
    units: int
    inside: int
    samples: Mapping[str, int]
    others: Mapping[str, str]

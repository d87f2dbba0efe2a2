"""Averages and interpolations of models, computed tensor by tensor as they are read."""

from rebasin_cli.merging.mean import MODES
from rebasin_cli.merging.sources import Between, Finite, Mean, all_finite

__all__ = [
    "MODES",
    "Between",
    "Finite",
    "Mean",
    "all_finite",
]

"""Averages and interpolations of models, and the alignment of many models to one frame."""

from rebasin_cli.merging.mixing import MODES
from rebasin_cli.merging.sources import Between, Mean
from rebasin_cli.merging.strategies import STRATEGIES, Alignment, Request, pair_objective

__all__ = [
    "MODES",
    "STRATEGIES",
    "Alignment",
    "Between",
    "Mean",
    "Request",
    "pair_objective",
]

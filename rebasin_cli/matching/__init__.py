"""The search for permutations: two tensor sources and a bound spec in, a Matching out."""

from rebasin_cli.matching.measure import Measured, constant, measure
from rebasin_cli.matching.result import Change, GroupChange, Matching, Status
from rebasin_cli.matching.starts import STARTS
from rebasin_cli.matching.weights import Settings, match_weights

__all__ = [
    "STARTS",
    "Change",
    "GroupChange",
    "Matching",
    "Measured",
    "Settings",
    "Status",
    "constant",
    "match_weights",
    "measure",
]

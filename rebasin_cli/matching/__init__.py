"""The search for permutations: two tensor sources and a bound spec in, a Matching out."""

from rebasin_cli.matching.measure import Measured, constant, measure
from rebasin_cli.matching.result import Change, GroupChange, Matching, Status
from rebasin_cli.matching.starts import STARTS
from rebasin_cli.matching.strategies import STRATEGIES, Alignment, Request, pair_objective
from rebasin_cli.matching.weights import Settings, match_weights

__all__ = [
    "STARTS",
    "STRATEGIES",
    "Alignment",
    "Change",
    "GroupChange",
    "Matching",
    "Measured",
    "Request",
    "Settings",
    "Status",
    "constant",
    "match_weights",
    "measure",
    "pair_objective",
]

"""The search for permutations: two tensor sources and a bound spec in, a Matching out."""

from rebasin_cli.matching.diagnostics.relation import (
    Relation,
    UnitComparison,
    UnitFigures,
    aligned_relation,
    compare_by_unit,
    compare_by_unit_fully,
    present_relation,
)
from rebasin_cli.matching.many.match_many import Alignment, Request, pair_objective
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.methods import METHODS, SOFT, check_start
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.measure import Measured, constant, measure
from rebasin_cli.matching.problem.result import Change, GroupChange, Matching, Status
from rebasin_cli.matching.problem.settings import EFFORTS, ORDERS, Settings, named
from rebasin_cli.matching.relaxation.polytope import words
from rebasin_cli.matching.search.starts import STARTS

__all__ = [
    "EFFORTS",
    "METHODS",
    "ORDERS",
    "SOFT",
    "STARTS",
    "STRATEGIES",
    "Alignment",
    "Change",
    "GroupChange",
    "Matching",
    "Measured",
    "Relation",
    "Request",
    "Settings",
    "Status",
    "UnitComparison",
    "UnitFigures",
    "aligned_relation",
    "check_start",
    "compare_by_unit",
    "compare_by_unit_fully",
    "constant",
    "families",
    "match_weights",
    "measure",
    "named",
    "pair_objective",
    "present_relation",
    "words",
]

"""The search for permutations: two tensor sources and a bound spec in, a Matching out."""

from rebasin_cli.matching.diagnostics.relation import (
    Diagnosis,
    Relation,
    UnitFigures,
    aligned_relation,
    diagnose,
    diagnose_fully,
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
    "Diagnosis",
    "GroupChange",
    "Matching",
    "Measured",
    "Relation",
    "Request",
    "Settings",
    "Status",
    "UnitFigures",
    "aligned_relation",
    "check_start",
    "constant",
    "diagnose",
    "diagnose_fully",
    "families",
    "match_weights",
    "measure",
    "named",
    "pair_objective",
    "present_relation",
    "words",
]

"""Probing: what permuted random numbers tell about an operator equals what its rule says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, analyse
from rebasin_cli.tracer.axes.known_atoms import Reason
from rebasin_cli.tracer.derivation.parents import find_parents
from rebasin_cli.tracer.recording.capture import record_fake
from rebasin_cli.tracer.recording.record import Call, live
from rebasin_cli.tracer.rules import apply_rule, indexing
from rebasin_cli.tracer.rules.equivariance import RUNS, Operand, OperatorRelation, relations
from rebasin_cli.tracer.rules.probing import probe_operator
from tests.tracer.operators import computing, shapes, spatial
from tests.tracer.operators.indexing import CASES as LOOKED_UP
from tests.tracer.operators.probe import Case, Maker, Probe, Sizes, check, described, one, probe

aten = torch.ops.aten
SEEDS = ((0, False), (1, False), (2, True))  # of the sizes, and whether all sizes are equal
CASES = {**computing.CASES, **shapes.CASES, **spatial.CASES, **LOOKED_UP}


def fallback(analysis: Analysis, call: Call) -> Any:
    made = probe_operator(analysis, call)
    return indexing.freezing(analysis, call) if made is None else made


def found(maker: Maker, seed: int = 0, *, equal: bool = False) -> Probe:
    return probe(maker(Sizes(seed, equal=equal)), fallback)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("mm", 0), ("mv", 0), ("bmm", 0), ("addmm", 0), ("baddbmm", 0), ("_cdist_forward", 0)),
        *(("convolution", 0), ("convolution", 1), ("convolution", 5), ("native_layer_norm", 0)),
        *(("native_layer_norm", 1), ("native_batch_norm", 1), ("_softmax", 0), ("_softmax", 1)),
        *(
            ("cumsum", 0),
            ("embedding", 0),
            ("sum", 1),
            ("logsumexp", 0),
            ("tril", 0),
            ("var_mean", 0),
        ),
        *(("permute", 0), ("avg_pool2d", 0), ("upsample_bilinear2d", 0), ("_trilinear", 0)),
    ],
)
def test_probing_says_what_the_rule_says(name: str, number: int) -> None:
    for seed, equal in SEEDS:
        case = CASES[name][number](Sizes(seed, equal=equal))
        assert described(probe(case, fallback)) == described(probe(case, apply_rule))


def heads(s: Sizes) -> Case:
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    return one(op, s("a b c d"), s("a b e d"), s("a b e d"))


def causal(s: Sizes) -> Case:
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    return one(op, *(s("a b c d") for _ in range(3)), 0.0, True)


def pick(index: int, maker: Maker) -> Maker:
    """Return the case with one of its results alone."""

    def make(s: Sizes) -> Case:
        case = maker(s)
        return Case(case.parameters, lambda run, *given: case.body(run, *given)[index])

    return make


WITHOUT_RULE: dict[str, tuple[Maker, str]] = {
    "kron": (
        lambda s: one(aten.kron.default, s("a b"), s("c d")),
        "[2!, 3!] [4!, 5!] -> [8!, 15!]",
    ),
    "trapz": (lambda s: one(aten.trapz.dx, s("a b")), "[a, 3!] -> [a]"),
    "cross": (
        lambda s: one(aten.linalg_cross.default, s("a 3 b"), s("a 3 b"), dim=1),
        "[a, 3!, b] [a, 3!, b] -> [a, 3!, b]",
    ),
    "renorm": (lambda s: one(aten.renorm.default, s("a b c"), 2, 1, 1.0), "[a, b, c] -> [a, b, c]"),
    "solve_triangular": (
        lambda s: one(aten.linalg_solve_triangular.default, s("d d"), s("d c"), upper=False),
        "[5!, 5!] [5!, a] -> [5!, a]",
    ),
    "inverse": (lambda s: one(aten.linalg_inv_ex.default, s("d d")), "[a, b] -> [b, a] []"),
    "solve": (
        lambda s: one(aten.linalg_solve.default, s("d d"), s("d c")),
        "[a, b] [a, c] -> [b, c]",
    ),
    "gram": (lambda s: one(aten.cov.default, s("a b")), "[a, b] -> [a, a]"),
    "heads": (
        pick(0, heads),
        "[a, b, c, d] [a, b, e, d] [a, b, e, f] -> [a, b, c, f]",
    ),
    "pairs": (lambda s: one(aten._pdist_forward.default, s("b c")), "[3!, a] -> [3!]"),
    "causal": (
        pick(0, causal),
        "[a, b, 4!, c] [a, b, 4!, c] [a, b, 4!, d] -> [a, b, 4!, d]",
    ),
    "cat": (lambda s: one(aten.cat.default, [s("a b"), s("a b")], 1), "[a, 3!] [a, 3!] -> [a, 6!]"),
}
DISTINCT = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6}


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_an_operator_without_a_rule_moves_as_it_should(name: str) -> None:
    maker, expected = WITHOUT_RULE[name]
    assert described(probe(maker(Sizes(0, sizes=DISTINCT)), fallback)) == expected


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_what_probing_lets_move_may_move(name: str) -> None:
    for seed, equal in SEEDS:
        check(found(WITHOUT_RULE[name][0], seed, equal=equal), seed)


def test_probing_rules_out_a_permutation_for_each_index_of_another_axis() -> None:
    symmetric = found(lambda s: one(aten.renorm.default, s("a b c"), 2, 1, 1.0))
    rows = [symmetric.axes(value) for value in symmetric.parameters]
    assert find_parents(symmetric.analysis, rows) == {}


def test_the_reason_is_that_nothing_was_found_and_it_is_a_limit_of_the_tracer() -> None:
    fixed = found(lambda s: one(aten.kron.default, s("a b"), s("c d")))
    reasons = {fixed.analysis.terms.reason(atom) for atom in fixed.atoms}
    assert reasons == {Reason("no rule for kron; probing found no symmetry", soft=True)}


# -- what cannot be probed ------------------------------------------------------------------------


def verdict(case: Case) -> list[list[AxisTerms] | None]:
    """Return what probing says of each call of a case."""
    said: list[list[AxisTerms] | None] = []

    def rule(analysis: Analysis, call: Call) -> Any:
        said.append(probe_operator(analysis, call))
        return indexing.freezing(analysis, call) if said[-1] is None else said[-1]

    probe(case, rule)
    return said


def looked_up(run: Any, table: Tensor, scores: Tensor) -> Any:
    return run(aten.embedding.default, table, run(aten.argmax.default, scores, 1))


def normalised(run: Any, x: Tensor, mean: Tensor) -> Any:
    """Running statistics are overwritten without being returned."""
    options = None, None, mean, mean.abs(), True, 0.1, 1e-5
    return run(aten._native_batch_norm_legit.default, x, *options)


GIVEN_UP = {
    "unknown integers": lambda s: Case((s("a b"), s("c a")), looked_up),
    "too many elements": lambda s: one(aten.renorm.default, s("600 600"), 2, 0, 1.0),
    "random numbers": lambda s: one(aten.native_dropout.default, s("a b"), 0.5, True),
    "no real numbers": lambda s: one(aten.logit.default, s("5 5")),
    "a refusal": lambda s: (
        one(aten.linalg_cholesky_ex.default, s("2 3"))
        if False
        else one(aten.linalg_cholesky.default, torch.eye(3, dtype=torch.float64))
    ),
    "a length that depends on numbers": lambda s: one(aten.nonzero.default, s("a b").relu()),
    "nothing that depends on numbers": lambda s: one(aten.hardshrink.default, s("a b"), 99.0),
}


@pytest.mark.parametrize("what", GIVEN_UP)
def test_probing_gives_up_on(what: str) -> None:
    assert verdict(GIVEN_UP[what](Sizes(0)))[-1] is None


def test_probing_gives_up_where_an_argument_is_overwritten_and_not_returned() -> None:
    assert (
        verdict(Case((torch.randn(4, 3).double(), torch.randn(3).double()), normalised))[-1] is None
    )


# -- the search -----------------------------------------------------------------------------------


def ask(op: Callable[..., Any], *sizes: tuple[int, ...]) -> tuple[OperatorRelation, ...] | None:
    operands = tuple(Operand(k, shape, torch.float64, None) for k, shape in enumerate(sizes))
    return relations(op, operands, (), (tuple(op(*map(torch.ones, sizes)).shape),))


def test_moving_round_in_a_circle_is_not_enough() -> None:
    """Half of all orders of three units are circles, and rolling looks the same in all of them."""
    assert ask(lambda x: x.roll(1, 0), (3, 2)) == (OperatorRelation(((0, 1),), ((0, 1),)),)


def test_five_axes_may_move_together_but_not_six() -> None:
    product = lambda *rows: torch.stack(rows).prod(0).cumsum(1)  # noqa: E731
    for count, expected in ((5, 1), (6, 0)):
        assert len(ask(product, *[(4, 2)] * count) or ()) == expected


def test_two_axes_of_a_result_may_move_together() -> None:
    assert ask(lambda x: x @ x.T, (4, 3)) == (
        OperatorRelation(((0, 1),), ()),
        OperatorRelation(((0, 0),), ((0, 0), (0, 1))),
    )


def test_an_axis_that_two_would_move_is_moved_by_none() -> None:
    assert ask(torch.add, (4, 1), (4, 1)) == (OperatorRelation(((0, 0), (1, 0)), ((0, 0),)),)


def test_the_search_ends_in_time_and_is_not_repeated() -> None:
    calls: list[int] = []

    def order_matters(*rows: Tensor) -> Tensor:
        calls.append(1)
        return torch.stack(rows).cumsum(0).cumsum(1).cumsum(2)

    shapes = [(3, 3)] * 9
    operands = tuple(Operand(k, shape, torch.float64, None) for k, shape in enumerate(shapes))
    for _ in range(2):
        assert relations(order_matters, operands, (), ((9, 3, 3),)) == ()
        assert RUNS - 2 < len(calls) <= RUNS


# -- recorded without memory ----------------------------------------------------------------------


class Lookup(nn.Module):
    """An operator without a rule, then a table that fixed numbers look into."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(6, 4))
        self.weight = nn.Parameter(torch.empty(5, 4))
        self.register_buffer("rows", torch.tensor([3, 1, 4]), persistent=False)

    def forward(self) -> Tensor:
        rows = aten.embedding.default(self.table, self.rows)
        return aten.renorm.default(aten.mm.default(rows, self.weight.t()), 2.0, 0, 1.0)


def test_fake_tensors_are_enough() -> None:
    recorded = record_fake(Lookup(), [((), {})])
    calls = live(recorded, list(recorded.outputs.values()))
    analysis = analyse(recorded, calls, [], fallback, frozenset())
    table, weight = (analysis.of(recorded.tensors[name]) for name in ("table", "weight"))
    held = [analysis.terms.is_frozen(term) for term in (*table, *weight)]
    assert held == [True, False, False, False]
    assert analysis.terms.resolve(table[1]) is analysis.terms.resolve(weight[1])

"""Groups that the spec fixes stay where they are, whatever would be gained by moving them."""

import pytest
import torch

from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Status
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.search.starts import STARTS
from rebasin_cli.permutation import inverse
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.tensors import InMemory
from tests.matching.problems import example, random_problem, random_state, same, still

ATTENTION = (
    [
        "in: ['head * d', x]",
        "b: ['head * d']",
        "out: [x, 'head * d']",
        "slope: [head]",
        "x: [x, ~]",
    ],
    {"in": (12, 5), "b": (12,), "out": (5, 12), "slope": (4,), "x": (5, 2)},
)
FREE = "groups: {head: {size: 4}, d: {per: head}}\n"
FIXED = "groups: {head: {size: 4, fixed: true}, d: {per: head}}\n"


def attention(head=FIXED, seed=0):
    return random_problem(*ATTENTION, head=head, seed=seed, dtype=torch.float64)


def heads_moved(seed):
    """Return a model whose heads, dims and stream were all put in another order."""
    return attention(FREE).planted(seed)[0]


@pytest.mark.parametrize("start", STARTS)
def test_a_fixed_group_stays_from_every_start(start):
    problem, other = attention(), heads_moved(1)
    free = attention(FREE).match(other, starts=(start,), restarts=2)
    found = problem.match(other, starts=(start,), restarts=2)
    assert free.permutations["head"].moved > 0  # there was something to gain
    assert found.permutations["head"].moved == 0
    assert found.permutations["d"].moved > 0
    assert found.objective.after < free.objective.after


@pytest.mark.parametrize("start", ["descriptor", "identity", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_inside_fixed_heads_is_recovered(start, seed):
    problem = attention(seed=seed)
    other, answer = problem.planted(seed)
    found = problem.match(other, starts=(start,))
    assert same(found.permutations, answer)
    assert found.status is Status.EXACT


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_fixed_group_stays_in_every_merge(name):
    problem = attention()
    models = [problem.state, heads_moved(1), heads_moved(2)]
    found = STRATEGIES[name](problem.request(models, restarts=1))
    assert all(permutations["head"].moved == 0 for permutations in found.permutations)


def test_models_planted_inside_fixed_heads_are_brought_together_by_a_merge():
    problem = attention()
    others, answers = zip(*(problem.planted(seed) for seed in (1, 2, 3)), strict=True)
    found = STRATEGIES["many"](problem.request([problem.state, *others]))
    for permutations, answer in zip(found.permutations[1:], answers, strict=True):
        assert same(permutations, answer)


def test_a_group_that_is_fixed_and_has_no_children_acts_like_a_fixed_axis():
    lines = ["in: [x, {}]", "mid: ['{} * h', x]", "out: [{}, '{} * h']"]
    shapes = {"in": (7, 3), "mid": (15, 7), "out": (3, 15)}
    named = [line.replace("{}", name) for line, name in zip(lines, "pqp", strict=True)]
    declared = "groups: {p: {fixed: true}, q: {size: 5, fixed: true}}\n"
    named[2] = "out: [p, 'q * h']"
    plain = ["in: [x, ~]", "mid: ['5 * h', x]", "out: [~, '5 * h']"]
    with_names = random_problem(named, shapes, head=declared, seed=1)
    without = random_problem(plain, shapes, seed=1)
    other = random_state(shapes, seed=2)
    found, expected = (problem.match(other) for problem in (with_names, without))
    assert found.history == pytest.approx(expected.history, rel=1e-6)
    for name, permutation in expected.permutations.items():
        assert found.permutations[name] == permutation


def test_a_spec_in_which_everything_is_fixed_has_nothing_to_move():
    lines, shapes = ["a: [x, ~]", "b: [~, x]"], {"a": (4, 3), "b": (2, 4)}
    problem = random_problem(lines, shapes, head="groups: {x: {fixed: true}}\n")
    found = problem.match(random_state(shapes, 3))
    assert (found.status, found.moved) == (Status.NOTHING, 0)


def test_heads_and_dims_that_are_all_fixed_have_nothing_to_move():
    lines, shapes = [line.replace("x", "~") for line in ATTENTION[0][:4]], dict(ATTENTION[1])
    del shapes["x"]
    declared = FIXED.replace("per: head", "per: head, fixed: true")
    problem = random_problem(lines, shapes, head=declared)
    found = problem.match(random_state(shapes, 3))
    assert (found.status, found.moved) == (Status.NOTHING, 0)


def test_a_descriptor_keeps_apart_what_stands_in_different_fixed_heads():
    lines = [line for line in ATTENTION[0] if line.split(":")[0] in ("in", "out", "x")]
    shapes = {name: ATTENTION[1][name] for name in ("in", "out", "x")}
    problem = random_problem(lines, shapes, head=FIXED, dtype=torch.float64)
    values = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    orders = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0], [1, 2, 3, 0]]
    for unit, order in enumerate(orders):  # all units have the same values, in different heads
        problem.state["in"][:, unit] = problem.state["out"][unit] = values[order].flatten()
    problem.state["x"].zero_()
    other, answer = problem.planted(1)
    start = problem.match(other, starts=("descriptor",), visits=0)
    assert start.permutations["x"] == answer["x"]


def test_the_figures_say_what_was_fixed():
    found = attention().match(heads_moved(1))
    assert {g.name: g.fixed for g in found.groups} == {"head": True, "d": False, "x": False}
    assert found.moved == 2


def test_what_is_inside_fixed_heads_can_be_left_out():
    problem, other = attention(), heads_moved(1)
    found = problem.match(other, movable=frozenset({"x"}))
    assert {n for n, p in found.permutations.items() if p.moved} == {"x"}


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("jobs", [1, 4])
def test_fixed_heads_of_a_network_with_slopes(jobs):
    problem = example("alibi")
    permutations = draw_permutations(
        problem.bound.groups.values(), torch.Generator().manual_seed(3)
    )
    assert permutations["head"] == still(problem)["head"]
    other = problem.permuted(permutations, problem.noisy(seed=4, amount=0.2))
    found = match_weights(
        InMemory(problem.state), InMemory(other), problem.bound, settings=Settings(jobs=jobs)
    )
    assert same(found.permutations, inverse(permutations))

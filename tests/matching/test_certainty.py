"""When a search that has found everything there is to find stops looking."""

from functools import partial

import pytest

from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.matching.search import certainty
from rebasin_cli.matching.search.starts import STARTS
from rebasin_cli.tensors import InMemory
from tests.matching.problems import Problem, example, random_problem, still

WIDE = ["0.weight: [a, ~]", "1.weight: [b, a]", "2.weight: [~, b]"]
SHAPES = {"0.weight": (40, 100), "1.weight": (50, 40), "2.weight": (100, 50)}


def wide(seed=0):
    return random_problem(WIDE, SHAPES, seed=seed)


def sure(problem, other, permutations, movable=None):
    sources = InMemory(problem.state), InMemory(other)
    a, b = load_models(sources, ("a", "b"), "cpu", 1 << 30)
    kept = SimilarityCache(
        Pair(a, b, problem.bound.groups), families(problem.bound, movable), 1 << 30
    )
    return certainty.beyond_doubt(kept, permutations)


def begun(monkeypatch, problem, other):
    """Return the starts that a search with the default effort has made."""
    made = []

    def noted(name, start, *given):
        made.append(name)
        return start(*given)

    for name, start in [*STARTS.items()]:
        monkeypatch.setitem(STARTS, name, partial(noted, name, start))
    problem.match(other, method="weights")
    return made


@pytest.mark.parametrize("noise", [0, 1])
def test_a_permuted_relative_leaves_no_doubt(noise):
    problem = wide()
    other, back = problem.planted(1)
    assert sure(problem, problem.permuted(problem.draw(1), problem.noisy(2, noise)), back)
    assert not sure(problem, other, still(problem))


def test_unrelated_models_leave_doubt():
    problem, other = wide(), wide(1).state
    assert not sure(problem, other, problem.match(other).permutations)


def test_dead_units_raise_no_doubt_as_long_as_they_are_few():
    problem = wide()
    for units, certain in ((1, True), (10, False)):
        dead = {name: values.clone() for name, values in problem.state.items()}
        dead["0.weight"][:units] = 0
        dead["1.weight"][:, :units] = 0
        assert sure(problem, dead, still(problem)) is certain


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_units_that_are_twins_raise_doubt(at_once, monkeypatch):
    monkeypatch.setattr(certainty, "AT_ONCE", at_once)
    problem = wide()
    twins = {name: values.clone() for name, values in problem.state.items()}
    twins["0.weight"][:20] = twins["0.weight"][20:]
    twins["1.weight"][:, :20] = twins["1.weight"][:, 20:]
    assert not sure(problem, twins, still(problem))


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_a_unit_of_the_reference_that_resembles_many_raises_doubt(at_once, monkeypatch):
    monkeypatch.setattr(certainty, "AT_ONCE", at_once)
    problem = wide()
    first = problem.state["0.weight"].clone()
    first[0] = 3 * first[:20].sum(0)
    reference = Problem(problem.bound, {**problem.state, "0.weight": first})
    assert not sure(reference, problem.state, still(problem))


def test_where_no_family_is_matched_on_similarities_there_is_doubt():
    problem = example("interleaved_groups")
    assert sure(problem, problem.state, still(problem))
    assert not sure(problem, problem.state, still(problem), frozenset({"kv"}))


def test_what_leaves_no_doubt_ends_the_race(monkeypatch):
    problem = wide()
    other = problem.permuted(problem.draw(1), problem.noisy(2, 1))
    assert begun(monkeypatch, problem, other) == ["descriptor"]


def test_what_leaves_doubt_does_not(monkeypatch):
    assert begun(monkeypatch, wide(), wide(1).state) == ["descriptor", "identity"]

"""What every method promises, the orders of first visits, and names that do not exist."""

from itertools import pairwise

import pytest
import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.matching.methods import METHODS
from rebasin_cli.matching.problem.settings import EFFORTS, ORDERS, Settings
from tests.matching.polytopes import structure, unrelated
from tests.matching.problems import example, mlp, objective, same

EVERY = ["auto", "weights", "frank-wolfe", "sinkhorn"]
ROOTS = ["a", "b", "c", "d", "e", "f", "g"]


def ordered(name, roots=ROOTS, seed=0):
    return ORDERS[name](roots, torch.Generator().manual_seed(seed))


def test_the_methods_that_are_tested_here_are_all_there_are():
    assert set(METHODS) == set(EVERY)


# every method


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize(
    ("method", "name"),
    [("auto", "mlp_residual"), ("weights", "mlp_residual"), ("frank-wolfe", "resnet20_stages")],
)
def test_the_number_of_threads_does_not_matter(method, name):
    problem, other = example(name, 1), example(name, 2).state
    alone, together = (problem.match(other, method=method, seed=3, jobs=jobs) for jobs in (1, 2))
    assert same(together.permutations, alone.permutations)
    assert together.history == alone.history


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", ["heads", "square"])
def test_the_same_seed_gives_the_same_result_with_any_number_of_threads(method, name):
    problem, other = structure(name), unrelated(name, 1)
    found = [problem.match(other, method=method, seed=7, jobs=jobs) for jobs in (1, 1, 2)]
    assert all(same(each.permutations, found[0].permutations) for each in found)
    assert len({each.history for each in found}) == 1


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", ["chain", "heads", "square", "cube"])
def test_the_history_never_falls_and_ends_at_the_objective(method, name):
    problem, other = structure(name, dtype=torch.float32), unrelated(name, 1, torch.float32)
    found = problem.match(other, method=method, effort="best")
    assert all(after >= before for before, after in pairwise(found.history))
    assert found.history[-1] == pytest.approx(found.objective.after, rel=1e-6)
    reached = objective(problem, problem.state, other, found.permutations)
    assert found.objective.after == pytest.approx(reached, rel=1e-5)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_visits_ends_no_lower_than_it_began(method, order):
    problem, other = example("mlp_residual", 1), example("mlp_residual", 2).state
    found = problem.match(other, method=method, order=order)
    assert found.objective.after >= found.objective.before


@pytest.mark.parametrize("method", EVERY)
def test_nothing_moves_that_may_not(method):
    problem, other = structure("heads"), unrelated("heads", 1)
    found = problem.match(other, method=method, movable=frozenset({"head"}))
    assert {name for name, p in found.permutations.items() if p.moved} <= {"head", "qk", "vo"}


@pytest.mark.parametrize("method", EVERY)
def test_dead_units_stay_where_they_are(method):
    problem = mlp()
    for name, axis in (("inp.weight", 0), ("inp.bias", 0), ("out.weight", 1)):
        problem.state[name].movedim(axis, 0)[[0, 2, 5]] = 0.0
    found = problem.match(problem.noisy(3, 0.1), method=method)
    assert found.permutations["h"].index[[0, 2, 5]].tolist() == [0, 2, 5]


# orders


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("count", range(8))
def test_an_order_holds_every_root_once(name, count):
    assert sorted(ordered(name, ROOTS[:count])) == ROOTS[:count]


def test_orders_by_place_are_what_they_are_called():
    assert ordered("forward") == list("abcdefg")
    assert ordered("backward") == list("gfedcba")
    assert ordered("alternate") == list("agbfced")
    assert ordered("alternate", list("abcd")) == list("adbc")


def test_the_random_order_depends_on_the_seed_alone():
    assert ordered("random", seed=1) == ordered("random", seed=1)
    assert len({tuple(ordered("random", seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "random"])
def test_orders_by_place_do_not_depend_on_the_seed(name):
    assert ordered(name, seed=1) == ordered(name, seed=2)


def test_the_order_that_is_asked_for_decides_where_a_descent_goes():
    problem, other = example("resnet20_stages", 1), example("resnet20_stages", 2).state
    histories = {
        problem.match(other, method="weights", starts=("identity",), order=order).history
        for order in ("forward", "backward", "alternate")
    }
    assert len(histories) == 3


# names


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("method", "frank-wolf", "did you mean 'frank-wolfe'?"),
        ("method", "xyz", ", ".join(METHODS)),
        ("effort", "bset", "did you mean 'best'?"),
        ("effort", "xyz", ", ".join(EFFORTS)),
        ("order", "foward", "did you mean 'forward'?"),
        ("order", "xyz", ", ".join(ORDERS)),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest_or_all(kind, name, hint):
    with pytest.raises(UsageError) as caught:
        mlp(1).match(mlp(2).state, **{kind: name})
    assert str(caught.value) == f"no {kind} is called {name!r}\nhint: {hint}"


def test_the_defaults_are_in_the_tables():
    defaults = Settings()
    assert (defaults.method in METHODS, defaults.effort in EFFORTS) == (True, True)
    assert defaults.order in ORDERS

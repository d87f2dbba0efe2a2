"""Bringing several models into one frame: what is maximised, and the laws of the result."""

from functools import reduce
from itertools import combinations, pairwise

import pytest
import torch

from rebasin_cli.matching.many.match_many import Alignment, pair_objective
from rebasin_cli.matching.many.strategies import STRATEGIES, walk_together
from rebasin_cli.permutation import compose, identity, inverse
from tests.matching.problems import compared, example, mlp, same, still

NETWORKS = ["mlp_sequential", "mlp_residual", "interleaved_heads"]
UNRELATED = (1, 2, 3)


def models(name, seeds=UNRELATED):
    """Return a problem and unrelated models that fit its spec."""
    return example(name, seeds[0]), [example(name, seed).state for seed in seeds]


def copies(name, amount=0.0):
    """Return a problem, its model in three orders, and the permutations that bring each back."""
    problem = example(name)
    drawn = [still(problem), problem.draw(11), problem.draw(12)]
    states = [problem.permuted(p, problem.noisy(k, amount)) for k, p in enumerate(drawn)]
    return problem, states, [inverse(p) for p in drawn]


def values(problem, state, permutations):
    """Return everything that votes, permuted, as one float64 vector."""
    pairs = compared(problem, problem.state, state, permutations)
    return torch.cat([torch.from_numpy(b).flatten() for _, b in pairs])


# what is maximised


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pair_objective_is_the_sum_of_inner_products_of_all_pairs(name):
    problem, states = models(name)
    drawn = [problem.draw(seed) for seed in UNRELATED]
    flat = [values(problem, s, p) for s, p in zip(states, drawn, strict=True)]
    pairs = sum(float(a @ b) for a, b in combinations(flat, 2))
    assert pair_objective(problem.request(states), drawn) == pytest.approx(
        pairs, rel=1e-4, abs=1e-3
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pair_objective_is_half_of_what_the_sum_has_more_than_its_parts(name):
    problem, states = models(name)
    drawn = [problem.draw(seed) for seed in UNRELATED]
    flat = [values(problem, s, p) for s, p in zip(states, drawn, strict=True)]
    total = sum(flat)
    expected = float(total @ total - sum(v @ v for v in flat)) / 2
    found = pair_objective(problem.request(states), drawn)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_the_pair_objective_does_not_change_if_all_models_are_permuted_alike():
    problem, states = models("interleaved_heads")
    request, common = problem.request(states), problem.draw(9)
    drawn = [problem.draw(seed) for seed in UNRELATED]
    moved = [compose(p, common) for p in drawn]
    assert pair_objective(request, moved) == pytest.approx(pair_objective(request, drawn), rel=1e-5)


# laws of every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("reference", [0, 2])
def test_the_reference_keeps_its_order(strategy, reference):
    problem, states = models("interleaved_heads")
    found = STRATEGIES[strategy](problem.request(states, reference=reference))
    assert same(found.permutations[reference], still(problem))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_going_round_a_circle_of_models_leads_back(strategy):
    """What maps model a to b is a's way to the common frame and b's way back."""
    problem, states = models("interleaved_heads")
    found = STRATEGIES[strategy](problem.request(states)).permutations
    steps = [compose(found[a], inverse(found[b])) for a, b in ((0, 1), (1, 2), (2, 0))]
    assert same(reduce(compose, steps), still(problem))


@pytest.mark.parametrize("strategy", ["many", "star"])
@pytest.mark.parametrize("name", [*NETWORKS, "resnet20_stages", "moe"])
def test_permuted_copies_of_one_model_are_brought_together_exactly(strategy, name):
    problem, states, answers = copies(name)
    found = STRATEGIES[strategy](problem.request(states)).permutations
    assert all(same(*pair) for pair in zip(found, answers, strict=True))


@pytest.mark.parametrize("strategy", ["many", "star"])
def test_the_reference_may_be_any_of_the_copies(strategy):
    problem, states, answers = copies("interleaved_heads")
    found = STRATEGIES[strategy](problem.request(states, reference=1)).permutations
    home = inverse(answers[1])
    expected = [compose(answer, home) for answer in answers]
    assert all(same(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_families_that_may_not_move_stay_in_every_model(strategy):
    problem, states = models("interleaved_heads")
    request = problem.request(states, movable=frozenset({"stream"}))
    for permutations in STRATEGIES[strategy](request).permutations:
        assert {name for name, p in permutations.items() if p.moved} <= {"stream"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_models_are_not_changed(strategy):
    problem, states = models("interleaved_heads")
    before = [{n: v.clone() for n, v in state.items()} for state in states]
    STRATEGIES[strategy](problem.request(states))
    for state, copy in zip(states, before, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_on_its_own_stays(strategy):
    problem = mlp(1)
    found = STRATEGIES[strategy](problem.request([problem.state]))
    assert [same(p, still(problem)) for p in found.permutations] == [True]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_frame(strategy):
    problem, states = models("mlp_residual")
    first, second = (STRATEGIES[strategy](problem.request(states, seed=5)) for _ in range(2))
    pairs = zip(first.permutations, second.permutations, strict=True)
    assert all(same(*pair) for pair in pairs)


# what each is worth


def worth(problem, states, strategy, **settings):
    request = problem.request(states, **settings)
    return pair_objective(request, STRATEGIES[strategy](request).permutations)


@pytest.mark.parametrize("name", NETWORKS)
def test_aligning_is_worth_more_than_leaving_models_alone(name):
    problem, states = models(name)
    nothing = worth(problem, states, "none")
    assert worth(problem, states, "star") > nothing
    assert worth(problem, states, "many") > nothing


@pytest.mark.parametrize("name", [*NETWORKS, "lstm"])
@pytest.mark.parametrize("seed", range(2))
def test_of_two_models_many_makes_no_less_than_star(name, seed):
    problem, states = models(name, (seed + 1, seed + 11))
    star = worth(problem, states, "star", seed=seed)
    assert worth(problem, states, "many", seed=seed) >= star - 1e-6 * abs(star)


@pytest.mark.parametrize("name", NETWORKS)
def test_of_three_models_more_rounds_never_make_less(name, monkeypatch):
    problem, states = models(name)
    reached = []
    for rounds in (1, 2, 100):
        monkeypatch.setattr("rebasin_cli.matching.many.strategies.ROUNDS", rounds)
        reached.append(worth(problem, states, "many"))
    falls = [low - high for low, high in pairwise(reached)]
    assert max(falls) <= 1e-5 * abs(reached[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_restarts_of_many_never_make_less(name):
    problem, states = models(name)
    without = worth(problem, states, "many")
    assert worth(problem, states, "many", restarts=2) >= without - 1e-6 * abs(without)


def test_many_stops_when_no_model_moves():
    problem, states = models("interleaved_heads")
    found = STRATEGIES["many"](problem.request(states))
    assert found.converged
    assert found.rounds < 100


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("mlp_sequential", (2, 12, 22)),
        ("mlp_sequential", (8, 18, 28)),
        ("mlp_residual", (3, 13, 23)),
        ("mlp_residual", (3, 13)),
        ("moe", (4, 14, 24)),
        ("moe", (4, 14)),
    ],
)
def test_where_many_ends_no_model_moves_towards_the_sum_of_the_others(name, seeds):
    problem, states = models(name, seeds)
    found = STRATEGIES["many"](problem.request(states, seed=seeds[0] - 1))
    ends = [problem.permuted(p, s) for p, s in zip(found.permutations, states, strict=True)]
    for k, end in enumerate(ends):
        rest = {n: sum(e[n] for e in ends[:k] + ends[k + 1 :]) for n in end}
        assert same(problem.match(end, rest, starts=("identity",)).permutations, still(problem))


def test_of_two_models_many_matches_one_once():
    problem, states = models("mlp_residual", (3, 13))
    found = STRATEGIES["many"](problem.request(states))
    assert (found.rounds, found.converged) == (1, True)


def test_many_says_when_it_was_stopped(monkeypatch):
    problem, states = models("lstm")
    monkeypatch.setattr("rebasin_cli.matching.many.strategies.ROUNDS", 2)
    found = STRATEGIES["many"](problem.request(states, method="weights"))
    assert (found.rounds, found.converged) == (2, False)


def test_copies_with_noise_are_brought_together_by_many():
    problem, states, answers = copies("interleaved_heads", amount=0.5)
    found = STRATEGIES["many"](problem.request(states)).permutations
    assert all(same(*pair) for pair in zip(found, answers, strict=True))


def test_none_is_the_identity_for_every_model():
    problem, states = models("interleaved_heads")
    found = STRATEGIES["none"](problem.request(states)).permutations
    groups = problem.bound.groups.values()
    expected = {g.name: identity(g.shape, g.parents) for g in groups}
    assert [same(p, expected) for p in found] == [True] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_models_are_summed_in_float32(dtype):
    problem = mlp(dtype=dtype)
    for tensor in problem.state.values():
        tensor.mul_(300)
    drawn = [still(problem), problem.draw(1), problem.draw(2)]
    states = [problem.permuted(p) for p in drawn]
    found = STRATEGIES["many"](problem.request(states)).permutations
    assert all(same(p, inverse(d)) for p, d in zip(found, drawn, strict=True))


def test_an_alignment_is_the_same_one_in_any_models_frame():
    problem = example("interleaved_heads")
    drawn = tuple(problem.draw(seed) for seed in range(3))
    home = Alignment(drawn).at_home(1).permutations
    assert same(home[1], still(problem))
    for own, moved in zip(drawn, home, strict=True):
        assert same(compose(own, inverse(drawn[1])), moved)


# all at once


@pytest.mark.parametrize("name", ["mlp_residual", "lstm"])
def test_all_at_once_reaches_no_less_than_one_after_another(name):
    problem, states = models(name)
    request = problem.request(states)
    reached = {
        strategy: pair_objective(request, STRATEGIES[strategy](request).permutations)
        for strategy in ("universe", "many", "none")
    }
    assert reached["universe"] >= reached["many"] > reached["none"]


def test_copies_in_other_orders_are_brought_together_all_at_once():
    problem, states, answers = copies("mlp_sequential")
    found = walk_together(problem.request(states))
    assert all(same(*pair) for pair in zip(found, answers, strict=True))


def test_all_at_once_what_may_not_move_stays():
    problem, states = models("mlp_sequential")
    for own in walk_together(problem.request(states, movable=frozenset({"hidden.0"}))):
        assert all(p.moved == 0 for name, p in own.items() if name != "hidden.0")

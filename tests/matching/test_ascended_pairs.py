"""Channels that meet inside groups of a convolution, in all pairs of groups at once."""

import pytest
import torch

from rebasin_cli.matching.assignment import joint
from rebasin_cli.matching.assignment.ascended_pairs import solve_ascending
from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.permutation import inverse
from rebasin_cli.tensors import InMemory
from tests.matching.problems import random_problem

# What a grouped convolution reads and writes; `last` meets nothing.
CONVOLUTION = ["read: ['g * i', ~]", "conv: ['g * o', i, ~]", "scale: ['g * o']"]
WRITES = ["write: [~, 'g * o']", "in: ['g * last', ~]", "out: [~, 'g * last']"]
GROUPS = "groups: {g: {size: 3}, i: {per: g}, o: {per: g}, last: {per: g}}\n"
SHAPES = {
    "read": (15, 4),
    "conv": (18, 5, 3),
    "scale": (18,),
    "write": (4, 18),
    "in": (6, 4),
    "out": (4, 6),
}


def grouped(seed):
    return random_problem([*CONVOLUTION, *WRITES], SHAPES, head=GROUPS, seed=seed)


def solved(states, current, monkeypatch, *, together):
    problem = grouped(1)
    a, b = load_models([InMemory(state) for state in states], "ab", "cpu", 1 << 30)
    pair, drawn = Pair(a, b, problem.bound.groups), problem.draw(3)
    level = Level(pair.groups, {g: p.index for g, p in drawn.items()} if current else {})
    done = []

    def counted(*given):
        done.append(solve_ascending(*given) if together else None)
        return done[-1]

    with monkeypatch.context() as patched:
        patched.setattr(joint, "solve_ascending", counted)
        return solve_family("g", list(pair.terms(families(problem.bound)["g"], {})), level), done


@pytest.mark.parametrize("current", [False, True])
@pytest.mark.parametrize("seed", [2, 5])
def test_all_pairs_at_once_are_solved_as_one_by_one(seed, current, monkeypatch):
    states = grouped(1).state, grouped(seed).state
    one, _ = solved(states, current, monkeypatch, together=False)
    all_, done = solved(states, current, monkeypatch, together=True)
    assert len(done) == 1 and done[0] is not None
    assert all_.value == pytest.approx(one.value, rel=1e-6)
    assert all_.index.keys() == one.index.keys() == {"g", "i", "o", "last"}
    assert all(torch.equal(all_.index[g], one.index[g]) for g in one.index)


@pytest.mark.parametrize("seed", [0, 6, 10])  # from nothing known, less is found
def test_no_visit_ends_below_what_is_in_place(seed):
    problem = grouped(1)
    noisy, drawn = problem.noisy(seed, 2), problem.draw(seed)
    planted = inverse(drawn)
    states = InMemory(problem.state), InMemory(problem.permuted(drawn, noisy))
    a, b = load_models(states, "ab", "cpu", 1 << 30)
    pair, family = Pair(a, b, problem.bound.groups), families(problem.bound)["g"]
    level = Level(pair.groups, {g: p.index for g, p in planted.items()})
    found = solve_family("g", list(pair.terms(family, {})), level)
    assert found.value >= pair.value(family, planted) * (1 - 1e-6)


def test_what_is_in_place_stays_where_nothing_is_worth_more(monkeypatch):
    problem = grouped(1)
    permutations = problem.draw(3)
    nothing = {name: torch.zeros_like(values) for name, values in problem.state.items()}
    found, _ = solved((problem.state, nothing), True, monkeypatch, together=True)
    assert all(torch.equal(found.index[g], permutations[g].index) for g in found.index)


def test_planted_orders_inside_groups_are_found():
    problem = grouped(1)
    other, planted = problem.planted(4)
    found = problem.match(other)
    assert found.distance.after == 0 and found.permutations.keys() == planted.keys()

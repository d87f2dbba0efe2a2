"""Orders of a few queries inside all pairs of heads at once: what pair by pair would find."""

import pytest
import torch

from rebasin_cli.matching.assignment import joint
from rebasin_cli.matching.assignment.enumerated_pairs import solve_enumerated
from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.tensors import InMemory
from tests.matching.problems import example


def solved(name, root, current, monkeypatch, *, together):
    problem, other = example(name, seed=1), example(name, seed=2)
    a, b = load_models((InMemory(problem.state), InMemory(other.state)), "ab", "cpu", 1 << 30)
    pair, family = Pair(a, b, problem.bound.groups), families(problem.bound)[root]
    drawn = problem.draw(3)
    level = Level(pair.groups, {g: drawn[g].index for g in family.names} if current else {})
    done = []

    def counted(*given):
        done.append(solve_enumerated(*given) if together else None)
        return done[-1]

    with monkeypatch.context() as patched:
        patched.setattr(joint, "solve_enumerated", counted)
        return solve_family(root, list(pair.terms(family, drawn)), level), done


@pytest.mark.parametrize("current", [False, True])
@pytest.mark.parametrize(("name", "root"), [("interleaved_groups", "kv"), ("llama", "kv.0")])
def test_all_pairs_at_once_are_solved_as_one_by_one(name, root, current, monkeypatch):
    one, _ = solved(name, root, current, monkeypatch, together=False)
    all_, done = solved(name, root, current, monkeypatch, together=True)
    assert len(done) == 1 and done[0] is not None
    assert all_.value == pytest.approx(one.value, rel=1e-6)
    assert all_.index.keys() == one.index.keys()
    assert all(torch.equal(all_.index[g], one.index[g]) for g in one.index)

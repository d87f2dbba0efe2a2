"""The figures of a matching, computed once more from permuted copies of the tensors."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from rebasin_cli.matching.problem import inner_products as products
from rebasin_cli.matching.problem.measure import measure
from rebasin_cli.permuted import take
from rebasin_cli.tensors import InMemory
from tests.matching.problems import distance, example, mlp, objective, random_state, still

NETWORKS = ["mlp_sequential", "mlp_residual", "char_gpt", "moe", "lstm"]
TOLERANCE = 1e-6  # float32 products, summed in float64


def unrelated(name):
    """Return a problem and another model of the same kind, of other random values."""
    return example(name, seed=1), example(name, seed=2).state


@cache
def matched(name):
    """Return such a pair with its matching, which tests may read but not change."""
    problem, other = unrelated(name)
    return problem, other, problem.match(other)


def vector(problem, state, group, permutations):
    """Return all that votes in the blocks of one group, as one float64 array."""
    source = InMemory(state)
    found = []
    for tensor in problem.bound.tensors:
        if not tensor.votes:
            continue
        values = take(tensor.load(source), tensor, permutations).contiguous().double()
        blocks = [block for block in tensor.blocks if group in block.groups]
        found += [block.view(values).numpy().ravel() for block in blocks]
    return np.concatenate(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_objective_is_that_of_the_permuted_copies(name):
    problem, other, found = matched(name)
    before = objective(problem, problem.state, other, {})
    after = objective(problem, problem.state, other, found.permutations)
    assert found.objective.before == pytest.approx(before, rel=TOLERANCE, abs=1e-5)
    assert found.objective.after == pytest.approx(after, rel=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_distance_is_that_of_the_permuted_copies(name):
    problem, other, found = matched(name)
    before = distance(problem, problem.state, other, {})
    after = distance(problem, problem.state, other, found.permutations)
    assert found.distance.before == pytest.approx(before, rel=TOLERANCE)
    assert found.distance.after == pytest.approx(after, rel=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_objective_rises_as_the_squared_distance_falls(name):
    _, _, found = matched(name)
    fallen = found.distance.before**2 - found.distance.after**2
    assert fallen > 0
    assert 2 * (found.objective.after - found.objective.before) == pytest.approx(fallen, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("start", ["descriptor", "identity", "random"])
def test_the_objective_never_falls_and_ends_at_the_one_reported(name, start):
    problem, other = unrelated(name)
    found = problem.match(other, starts=(start,))
    assert found.start == start
    assert len(found.history) > 1 or start == "descriptor"
    assert all(low < high for low, high in pairwise(found.history))
    assert found.history[-1] == pytest.approx(found.objective.after, rel=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_history_from_the_identity_begins_at_the_objective_before(name):
    problem, other = unrelated(name)
    found = problem.match(other, starts=("identity",))
    scale = abs(found.objective.after)
    assert found.history[0] == pytest.approx(found.objective.before, abs=TOLERANCE * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_groups_cosine_is_that_of_all_weights_it_occurs_in(name):
    problem, other, found = matched(name)
    for group in found.groups:
        a = vector(problem, problem.state, group.name, {})
        before = vector(problem, other, group.name, {})
        after = vector(problem, other, group.name, found.permutations)
        scale = np.linalg.norm(a) * np.linalg.norm(before)
        assert group.cosine.before == pytest.approx(a @ before / scale, abs=TOLERANCE)
        assert group.cosine.after == pytest.approx(a @ after / scale, abs=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_groups_gain_is_the_rise_in_the_blocks_it_occurs_in(name):
    problem, other, found = matched(name)
    for group in found.groups:
        a = vector(problem, problem.state, group.name, {})
        before = vector(problem, other, group.name, {})
        after = vector(problem, other, group.name, found.permutations)
        assert group.gain == pytest.approx(a @ after - a @ before, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_gain_of_a_group_on_two_axes_is_never_negative(seed):
    problem, other = example("mlp_residual", seed), example("mlp_residual", seed + 50).state
    found = problem.match(other, starts=("identity",))
    (stream,) = found.groups
    assert stream.gain > 0
    assert stream.gain == pytest.approx(found.objective.after - found.objective.before, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_group_counts_its_units_over_all_parents_and_those_that_moved(name):
    problem, _, found = matched(name)
    assert [group.name for group in found.groups] == list(problem.bound.groups)
    for group in found.groups:
        index = found.permutations[group.name].index.numpy()
        assert (group.size, group.units) == (index.shape[-1], index.size)
        assert group.moved == (index != np.arange(group.size)).sum()
    assert found.moved == sum(group.moved > 0 for group in found.groups)


def test_tensors_the_spec_does_not_mention_count_as_a_constant():
    problem = mlp()
    shapes = {name: values.shape for name, values in problem.state.items()}
    rest = {"rest": (4,)}
    states = [random_state(shapes | rest, seed) for seed in (1, 2)]
    spec = replace(problem.bound, untouched=("rest",))
    a, b = map(InMemory, states)
    with_it = measure(a, b, spec, still(problem))
    without = measure(a, b, problem.bound, still(problem))
    constant = float((states[0]["rest"].double() * states[1]["rest"].double()).sum())
    assert with_it.objective.before == pytest.approx(without.objective.before + constant, rel=1e-6)
    assert with_it.objective.after == pytest.approx(without.objective.after + constant, rel=1e-6)


def test_integers_and_buffers_do_not_count():
    problem, other = unrelated("resnet20_stages")
    moved = dict(other)
    for name in other:
        if name.endswith(("num_batches_tracked", "running_mean", "running_var")):
            moved[name] = other[name] + 1000
    order, reference = problem.draw(1), InMemory(problem.state)
    found, expected = (
        measure(reference, InMemory(state), problem.bound, order) for state in (moved, other)
    )
    assert found == expected


def test_a_large_tensor_is_measured_in_pieces_that_add_up(monkeypatch):
    problem, other = unrelated("interleaved_heads")
    whole = problem.match(other)
    monkeypatch.setattr(products, "IN_CACHE", 50)
    pieces = problem.match(other)
    assert pieces.objective.after == pytest.approx(whole.objective.after, rel=1e-9)
    assert pieces.distance.after == pytest.approx(whole.distance.after, rel=1e-9)

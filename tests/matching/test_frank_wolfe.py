"""The walk through the polytope: what it maximises, how far it goes, where it may end."""

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from rebasin_cli.matching.relaxation.frank_wolfe import (
    Floats,
    FrankWolfe,
    best_length,
    on_segment,
)
from rebasin_cli.matching.relaxation.soft import soften
from rebasin_cli.permutation import inverse
from tests.matching.polytopes import (
    STRUCTURES,
    between,
    corner,
    in_frame,
    middle,
    pairs,
    space,
    stacks,
    structure,
    unrelated,
)
from tests.matching.problems import objective, same

TWO_AT_MOST = [name for name in STRUCTURES if name != "cube"]  # chains that meet in a tensor
NESTS = ["heads", "nested"]


def several(name, count):
    """Return a problem and the soft permutations of `count` unrelated models beside it."""
    problem = structure(name)
    return problem, space(problem, *(unrelated(name, seed + 1) for seed in range(count)))


def segment(problem, here, count):
    """Return a segment: its start and end as matrices, and the objective by `on_segment`.

    It begins inside the polytope, so that every part is a mixture already.
    """
    coefficients: Floats = np.zeros(1)
    starts, ends = [], []
    ways = []
    for which in range(1, count + 1):
        first, last = problem.draw(10 * which), problem.draw(10 * which + 1)
        starts.append(between(middle(here), corner(here, first), 0.4))
        ends.append(corner(here, last))
        models = [soften(stack, which, None, fixed=here.fixed) for stack in stacks(here)]
        for model in models:
            model.step(model.towards(here.orders(first)), 0.4)
        ways.append([model.towards(here.orders(last)) for model in models])
    for position, stack in enumerate(stacks(here)):
        mixtures = [way[position][stack.everywhere] for way in ways]
        added = on_segment(stack.arrays[0], mixtures)
        coefficients = np.polynomial.polynomial.polyadd(coefficients, added)
    return starts, ends, coefficients


# what is maximised


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_objective_on_a_segment_is_the_polynomial(name, count):
    problem, here = several(name, count)
    starts, ends, coefficients = segment(problem, here, count)
    for length in np.linspace(0, 1, 7):
        points = [between(a, b, length) for a, b in zip(starts, ends, strict=True)]
        expected = float(pairs(here, points))
        assert Polynomial(coefficients)(length) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", TWO_AT_MOST)
@pytest.mark.parametrize(("count", "degree"), [(1, 2), (2, 4), (4, 4)])
def test_it_is_quadratic_for_two_models_and_quartic_for_more(name, count, degree):
    problem, here = several(name, count)
    coefficients = segment(problem, here, count)[2]
    assert len(np.trim_zeros(coefficients, "b")) == degree + 1


def test_where_three_chains_meet_it_is_cubic_for_two_models():
    problem, here = several("cube", 1)
    assert len(segment(problem, here, 1)[2]) == 4


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_is_half_of_what_the_sum_has_more_than_its_parts(name):
    problem, here = several(name, 3)
    starts, _, coefficients = segment(problem, here, 3)
    expected = 0.0
    for field in here.fields:
        models = in_frame(field, starts)
        expected += float(sum(models).square().sum() - sum(m.square().sum() for m in models)) / 2
    assert coefficients[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("begin", ["identity", "middle", "drawn"])
def test_the_slope_is_the_gradient(name, count, begin):
    problem, here = several(name, count)
    drawn = {"identity": [{}] * count, "drawn": [problem.draw(k) for k in range(count)]}
    hard = drawn.get(begin)
    walk = FrankWolfe(here, [None] * count if hard is None else [here.orders(p) for p in hard])
    points = [middle(here)] * count if hard is None else [corner(here, p) for p in hard]
    points = [{g: m.clone().requires_grad_() for g, m in point.items()} for point in points]
    pairs(here, points).backward()
    for which, point in enumerate(points):
        slope = walk._slope(which).by_chain
        for groups, matrix in point.items():
            torch.testing.assert_close(slope[groups], matrix.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_slope_is_the_gradient_after_steps_as_well(name):
    problem, here = several(name, 2)
    walk = FrankWolfe(here, [None, here.orders(problem.draw(1))])
    walk.run(steps=2)
    points = [
        {g: m.double().clone().requires_grad_() for g, m in soft.by_chain.items()}
        for soft in walk._soft
    ]
    pairs(here, points).backward()
    for which, point in enumerate(points):
        slope = walk._slope(which).by_chain
        for groups, matrix in point.items():  # the matrices are float32
            torch.testing.assert_close(slope[groups], matrix.grad, rtol=1e-4, atol=1e-4)


# how far it goes


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("degree", [1, 2, 4, 6])
def test_the_best_length_is_at_least_as_good_as_any_on_a_fine_grid(seed, degree):
    value = Polynomial(np.random.default_rng(seed).normal(size=degree + 1))
    length = best_length(value)
    assert 0 <= length <= 1
    assert value(length) >= value(np.linspace(0, 1, 10_001)).max() - 1e-12


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [([1.0, 0.0], 0.0), ([0.0, 1.0], 1.0), ([0.0, 1.0, -1.0], 0.5), ([0.0, -1.0, 1.0], 0.0)],
)
def test_the_shortest_of_the_best_lengths_is_taken(coefficients, expected):
    assert best_length(Polynomial(coefficients)) == pytest.approx(expected)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("begin", ["identity", "middle", "drawn"])
def test_the_value_never_falls_and_is_that_of_the_soft_permutations(name, count, begin):
    problem, here = several(name, count)
    starts = {"identity": [{}] * count, "drawn": [problem.draw(k) for k in range(count)]}
    hard = starts.get(begin)
    walk = FrankWolfe(here, [None] * count if hard is None else [here.orders(p) for p in hard])
    found = walk.run(steps=30)
    scale = max(map(abs, found.values))
    assert all(after >= before - 1e-12 * scale for before, after in pairwise(found.values))
    reached = float(pairs(here, [{g: m.double() for g, m in s.items()} for s in found.soft]))
    assert found.values[-1] == pytest.approx(reached, abs=1e-5 * scale)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("begin", ["identity", "middle"])
def test_soft_permutations_stay_doubly_stochastic(name, begin):
    _, here = several(name, 2)
    walk = FrankWolfe(here, [None if begin == "middle" else here.orders({})] * 2)
    for soft in walk.run(steps=30).soft:
        for matrix in soft.values():
            ones = torch.ones(len(matrix), dtype=matrix.dtype)
            assert float(matrix.min()) >= 0
            for sums in (matrix.sum(0), matrix.sum(1)):
                torch.testing.assert_close(sums, ones, rtol=1e-5, atol=1e-5)


# where it may end


@pytest.mark.parametrize("name", STRUCTURES)
def test_rounding_a_vertex_gives_it_back(name):
    problem, here = several(name, 2)
    drawn = [problem.draw(7), problem.draw(8)]
    rounded = FrankWolfe(here, [here.orders(p) for p in drawn]).rounded()
    for found, expected in zip(rounded, drawn, strict=True):
        assert same({name: found[name] for name in expected}, expected)


def structured(groups, names):
    """Return the indices of every joint permutation of a nest of groups, by name."""
    if not names:
        return [{}]
    first, *inside = names
    orders = [torch.tensor(order) for order in permutations(range(groups[first].size))]
    if not inside:
        return [{first: order} for order in orders]
    parts = structured(groups, inside)
    chosen = product(parts, repeat=groups[first].size)
    rows = [{name: torch.stack([row[name] for row in c]) for name in inside} for c in chosen]
    return [{first: order, **inner} for order in orders for inner in rows]


@pytest.mark.parametrize("seed", range(3))
def test_a_vertex_is_the_best_of_all_permutations_that_keep_nests_together(seed):
    problem, here = several("heads", 1)
    chain = here.chains["head", "vo"]
    generator = torch.Generator().manual_seed(seed)
    values = {
        groups: torch.randn(c.size, c.size, generator=generator, dtype=torch.float64)
        for groups, c in here.chains.items()
    }
    values["head", "qk"].zero_()  # with them there would be too many to try
    values["head",].zero_()
    found = here.orders(here.vertex(values, {}))["head", "vo"]
    units = torch.arange(chain.size).reshape(chain.shape)
    every = torch.stack(
        [
            torch.stack([units[h][row] for h, row in zip(index["head"], index["vo"], strict=True)])
            for index in structured(problem.bound.groups, ("head", "vo"))
        ]
    ).flatten(1)
    worth = values["head", "vo"][torch.arange(chain.size), every].sum(1)
    assert len(every) == 6 * 6**3
    assert float(worth.max()) == pytest.approx(
        float(values["head", "vo"][torch.arange(chain.size), found].sum())
    )


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("known", [False, True])
def test_families_that_are_solved_together_get_what_each_gets_alone(name, known):
    problem, here = several(name, 1)
    generator = torch.Generator().manual_seed(0)
    values = {  # few different ones: many orders are worth the same
        groups: torch.randint(3, (c.size, c.size), generator=generator).double()
        for groups, c in here.chains.items()
    }
    now = {n: p.index for n, p in problem.draw(1).items()} if known else {}
    expected = {}
    for family in here.families:
        expected.update(replace(here, families=[family]).vertex(values, now))
    assert same(here.vertex(values, now), expected)
    if name == "alike":
        assert [len(batch) for batch in here._batches] == [5]


@pytest.mark.parametrize("name", NESTS)
@pytest.mark.parametrize("begin", ["identity", "middle"])
def test_units_inside_one_parent_stay_together(name, begin):
    _, here = several(name, 2)
    walk = FrankWolfe(here, [None if begin == "middle" else here.orders({})] * 2)
    walk.run()
    for found in walk.rounded():
        orders = here.orders(found)
        for groups, chain in here.chains.items():
            if len(groups) > 1:
                parents = orders[groups].reshape(chain.shape[0], -1) // (
                    chain.size // chain.shape[0]
                )
                assert bool((parents == parents[:, :1]).all())
                assert torch.equal(parents[:, 0], found[groups[0]].index)


def test_what_is_inside_heads_that_stay_moves_inside_them():
    _, here = several("heads that stay", 1)
    walk = FrankWolfe(here, [None])
    walk.run()
    (found,) = walk.rounded()
    assert found["head"].moved == 0
    assert found["vo"].moved > 0


@pytest.mark.parametrize("name", STRUCTURES)
def test_planted_orders_of_several_models_are_found_by_the_walk_alone(name):
    problem = structure(name)
    drawn = [problem.draw(3), problem.draw(4)]
    here = space(problem, *(problem.permuted(p) for p in drawn))
    walk = FrankWolfe(here, [None] * 2)
    walk.run()
    for found, planted in zip(walk.rounded(), drawn, strict=True):
        assert same({n: found[n] for n in planted}, inverse(planted))


@pytest.mark.parametrize("name", STRUCTURES)
def test_with_one_model_the_value_is_the_objective_of_permuted_copies(name):
    problem, here = several(name, 1)
    planted = problem.draw(3)
    walk = FrankWolfe(here, [here.orders(planted)])
    expected = objective(problem, problem.state, unrelated(name, 1), planted)
    assert walk.run(steps=1).values[0] == pytest.approx(expected)

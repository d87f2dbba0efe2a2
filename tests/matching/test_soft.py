"""Models under soft permutations are what multiplying by the matrices would make of them."""

import pytest
import torch

from rebasin_cli.matching.relaxation.soft import soften
from rebasin_cli.permutation import inverse
from tests.matching.polytopes import (
    STRUCTURES,
    between,
    corner,
    middle,
    multiplied,
    space,
    stacks,
    structure,
    unrelated,
)
from tests.matching.problems import objective

CLOSE = 1e-12
LENGTHS = (0.3, 0.75, 0.5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_array_at_a_vertex_is_that_of_the_permuted_model_bit_by_bit(name):
    problem, other = structure(name), unrelated(name, 1)
    permutations = problem.draw(2)
    here = space(problem, other)
    there = space(problem, problem.permuted(permutations, other))
    start = here.orders(permutations)
    for stack, moved in zip(stacks(here), stacks(there), strict=True):
        assert torch.equal(soften(stack, 1, start).whole, moved.arrays[1])


@pytest.mark.parametrize("name", STRUCTURES)
def test_permuting_a_model_back_and_softly_there_gives_the_model(name):
    """The direction counts: a permutation and its inverse are mistaken for each other easily."""
    problem = structure(name)
    permutations = problem.draw(2)
    here = space(problem, problem.permuted(permutations))
    start = here.orders(inverse(permutations))
    for stack in stacks(here):
        assert torch.equal(soften(stack, 1, start).whole, stack.arrays[0])


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_fields_hold_every_voting_element_once(name):
    problem, other = structure(name), unrelated(name, 1)
    here, permutations = space(problem, other), problem.draw(3)
    start = here.orders(permutations)
    found = sum(float((f.arrays[0] * soften(f, 1, start).whole).sum()) for f in stacks(here))
    assert found == pytest.approx(objective(problem, problem.state, other, permutations))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("begin", ["identity", "middle", "drawn"])
def test_after_any_steps_each_part_is_the_model_times_its_matrices(name, begin):
    problem = structure(name)
    here = space(problem, unrelated(name, 1))
    drawn = {"identity": {}, "drawn": problem.draw(5)}
    start = here.orders(drawn[begin]) if begin in drawn else None
    models = [soften(stack, 1, start, fixed=here.fixed) for stack in stacks(here)]
    point = middle(here) if start is None else corner(here, drawn[begin])
    for seed, length in enumerate(LENGTHS):
        permutations = problem.draw(seed)
        vertex = here.orders(permutations)
        for model in models:
            model.step(model.towards(vertex), length)
        point = between(point, corner(here, permutations), length)
    for model in models:
        for row, field in enumerate(model.stack.fields):
            whole = multiplied(field, 1, point)
            torch.testing.assert_close(model.whole[row], whole, rtol=CLOSE, atol=CLOSE)
            for k in range(len(field.chains)):
                rest = multiplied(field, 1, point, without=k)
                torch.testing.assert_close(model.but(k)[row], rest, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_step_of_length_one_arrives_at_the_vertex_and_of_zero_stays(name):
    problem = structure(name)
    here = space(problem, unrelated(name, 1))
    vertex = here.orders(problem.draw(4))
    for stack in stacks(here):
        model = soften(stack, 1, None, fixed=here.fixed)
        before = model.whole.clone()
        model.step(model.towards(vertex), 0.0)
        assert torch.equal(model.whole, before)
        model.step(model.towards(vertex), 1.0)
        assert torch.equal(model.whole, soften(stack, 1, vertex).whole)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_segment_does_not_change_the_point_it_begins_at(name):
    problem = structure(name)
    here = space(problem, unrelated(name, 1))
    for stack in stacks(here):
        model = soften(stack, 1, here.orders({}))
        before = {chosen: part.clone() for chosen, part in model.parts.items()}
        model.towards(here.orders(problem.draw(4)))
        assert all(torch.equal(part, before[chosen]) for chosen, part in model.parts.items())

"""Differentiable re-basin: the soft permutations, their gradient, and what they find."""

import pytest
import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.relaxation.losses import LOSSES, at_vertex, lower_loss
from rebasin_cli.matching.relaxation.sinkhorn import Normalised, soft_loss, starting_scores
from rebasin_cli.permutation import inverse
from tests.matching.polytopes import (
    STRUCTURES,
    corner,
    middle,
    multiplied,
    space,
    structure,
    unrelated,
)
from tests.matching.problems import (
    compared,
    distance,
    example,
    mlp,
    same,
)

CLOSE = 1e-5  # of sums after 20 normalisations
SURE = 1e-2  # a temperature at which an entry of a start is all there is


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def step_by_step(values, steps):
    """Return the same as Normalised, by logarithms, so that autograd sees every step."""
    for _ in range(steps):
        values = values - values.logsumexp(-1, keepdim=True)
        values = values - values.logsumexp(-2, keepdim=True)
    return values.exp()


def moved(problem, other, permutations):
    pairs = compared(problem, problem.state, other, permutations)
    return sum(float(abs(a - b).sum()) for a, b in pairs)


# soft permutations


@pytest.mark.parametrize("shape", [(6, 6), (3, 3, 5, 5), (1, 1)])
def test_rows_and_columns_sum_to_one(shape):
    found = Normalised.apply(scores(*shape))
    assert float(found.min()) > 0
    for axis in (-1, -2):
        torch.testing.assert_close(
            found.sum(axis), torch.ones(shape[:-1]).double(), rtol=CLOSE, atol=CLOSE
        )


def test_no_score_is_so_low_that_a_column_vanishes():
    values = torch.zeros(4, 4)
    values[:, 2] = -1e4
    found = Normalised.apply(values)
    torch.testing.assert_close(found.sum(0), torch.ones(4))


@pytest.mark.parametrize("shape", [(6, 6), (3, 3, 4, 4)])
def test_the_gradient_is_that_of_every_step(shape):
    values, weights = scores(*shape).requires_grad_(), scores(*shape, seed=1)
    (found,) = torch.autograd.grad((Normalised.apply(values) * weights).sum(), values)
    (expected,) = torch.autograd.grad((step_by_step(values, 300) * weights).sum(), values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_start_that_is_sure_is_its_permutations(name):
    problem = structure(name)
    here, permutations = space(problem, unrelated(name, 1)), problem.draw(2)
    found = starting_scores(here, permutations, generator()).soft(SURE)
    for groups, matrix in corner(here, permutations).items():
        torch.testing.assert_close(found[groups], matrix, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name != "heads that stay"])
def test_without_a_start_it_begins_near_the_middle(name):
    here = space(structure(name), unrelated(name, 1))
    found = starting_scores(here, None, generator()).soft(1.0)
    for groups, matrix in middle(here).items():
        torch.testing.assert_close(found[groups], matrix, rtol=0.2, atol=1e-6)
        assert not torch.equal(found[groups], matrix)


@pytest.mark.parametrize("name", ["heads", "nested", "heads that stay"])
def test_units_inside_a_pair_of_parents_weigh_what_the_pair_weighs(name):
    """A point is then a mixture of permutations that keep the units of a parent together."""
    here = space(structure(name), unrelated(name, 1))
    matrices = starting_scores(here, None, generator())
    with torch.no_grad():
        for values in matrices.matrices.values():
            values.add_(torch.randn(values.shape, generator=generator(3)))
    found = matrices.soft(1.0)
    root = next(c.groups[0] for c in here.chains.values() if len(c.groups) > 1)
    own = matrices.matrices.get((root,))
    roots = None if own is None else Normalised.apply(own)
    for groups, chain in here.chains.items():
        if groups[0] == root:
            size, inside = chain.shape[0], chain.size // chain.shape[0]
            pairs = found[groups].reshape(size, inside, size, inside).sum(3)
            expected = roots if roots is not None else torch.eye(size, dtype=pairs.dtype)
            torch.testing.assert_close(
                pairs, expected[:, None].expand_as(pairs), rtol=CLOSE, atol=CLOSE
            )


# losses


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_soft_permutations_is_that_of_the_matrices(name, loss):
    here = space(structure(name), unrelated(name, 1))
    with torch.no_grad():
        soft = starting_scores(here, None, generator()).soft(0.01)
    expected = sum(
        float(LOSSES[loss].apart(field.arrays[0], multiplied(field, 1, soft)))
        for field in here.fields
    )
    assert float(soft_loss(here.fields, LOSSES[loss], soft)) == pytest.approx(expected)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("loss", "expected"), [("l2", lambda *a: distance(*a) ** 2), ("l1", None)])
def test_the_loss_at_a_vertex_is_that_of_permuted_copies(name, loss, expected):
    problem, other = structure(name), unrelated(name, 1)
    here, permutations = space(problem, other), problem.draw(2)
    found = at_vertex(here, LOSSES[loss], here.orders(permutations))
    assert found == pytest.approx(
        expected(problem, problem.state, other, permutations)
        if expected
        else moved(problem, other, permutations)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_costs_are_distances_of_rows_but_for_what_stays_and_worth_is_their_negative(loss):
    rows, columns = scores(5, 3), scores(5, 3, seed=1)
    order = torch.tensor([2, 0, 1, 4, 3])
    costs, apart, worth = LOSSES[loss].costs(rows, columns), LOSSES[loss].apart, LOSSES[loss].worth
    before, after = (columns[i] for i in (torch.arange(5), order))
    change = float(apart(rows, after) - apart(rows, before))
    assert float(costs[range(5), order].sum() - costs.trace()) == pytest.approx(change)
    scale = 2 if loss == "l2" else 1
    assert scale * (worth(rows, before) - worth(rows, after)) == pytest.approx(change)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(2))
def test_settling_never_raises_the_loss_and_ends_where_nothing_lowers_it(name, loss, seed):
    problem, chosen = structure(name), LOSSES[loss]
    here, start = space(problem, unrelated(name, 1)), problem.draw(seed)
    values = [at_vertex(here, chosen, here.orders(start))]
    for visits in (1, 2, 100):
        found, converged = lower_loss(here, chosen, start, visits)
        values.append(at_vertex(here, chosen, here.orders(found)))
    assert values == sorted(values, reverse=True)
    assert name == "square" or values[-1] < values[0]  # there a move may be refused
    assert converged
    assert same(lower_loss(here, chosen, found, 100)[0], found)


def test_a_limit_of_visits_is_reported():
    problem = structure("chain")
    here = space(problem, unrelated("chain", 1))
    assert lower_loss(here, LOSSES["l1"], problem.draw(1), 1)[1] is False


def test_a_loss_that_does_not_exist_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError) as caught:
        Settings(loss="l11")
    assert str(caught.value) == "no loss is called 'l11'\nhint: did you mean 'l1'?"


# what is found


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_planted_order_is_recovered(name, loss):
    problem = structure(name)
    other, answer = problem.planted(5)
    found = problem.match(other, method="sinkhorn", loss=loss)
    assert same({n: found.permutations[n] for n in answer}, answer)
    assert found.method == "sinkhorn"


@pytest.mark.parametrize(
    ("name", "loss"), [("mlp_residual", "l2"), ("mlp_residual", "l1"), ("interleaved_heads", "l1")]
)
def test_a_planted_order_of_a_network_is_recovered_under_noise(name, loss):
    problem, permutations = example(name, 1), example(name, 1).draw(2)
    other = problem.permuted(permutations, problem.noisy(seed=3, amount=0.5))
    found = problem.match(other, method="sinkhorn", loss=loss)
    assert same(found.permutations, inverse(permutations))


def wild(state, seed, count):
    """Return a model with some weights of every matrix replaced by huge values."""
    found = {name: values.clone() for name, values in state.items()}
    for values in found.values():
        if values.dim() > 1:
            where = torch.randperm(values.numel(), generator=generator(seed))[:count]
            values.view(-1)[where] = 1000.0 * torch.randn(count, generator=generator(seed + 1))
    return found


def mistaken(found, answer):
    """Return how many units are not where they belong."""
    return sum(int((found[name].index != answer[name].index).sum()) for name in answer)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["other", "reference"])
@pytest.mark.parametrize("seed", range(3))
def test_a_few_wild_weights_mislead_squares_and_not_absolute_values(broken, seed):
    problem = example("mlp_residual", seed)
    permutations = problem.draw(seed + 5)
    noisy, reference = problem.noisy(seed + 6, 0.2), dict(problem.state)
    if broken == "other":
        noisy = wild(noisy, seed, 2)
    else:
        reference = wild(reference, seed, 2)
    other, answer = problem.permuted(permutations, noisy), inverse(permutations)
    units = {
        loss: mistaken(
            problem.match(other, reference, method="sinkhorn", loss=loss).permutations, answer
        )
        for loss in LOSSES
    }
    assert units["l1"] == 0
    assert units["l2"] > 0


def test_what_is_best_is_chosen_by_the_loss_that_was_asked_for():
    """A wild weight makes the present order look better in squares than the right one."""
    problem = mlp(1)
    other, answer = problem.planted(2)
    column = problem.state["inp.weight"][:, 0]
    place = next(r for r, u in enumerate(answer["h"].index) if column[r] * column[u] < 0)
    unit = int(answer["h"].index[place])
    other["inp.weight"][unit, 0] = 1e4 * column[unit].sign()
    found = problem.match(other, method="sinkhorn", loss="l1")
    assert same(found.permutations, answer)
    assert found.objective.before > 0 > found.objective.after


@pytest.mark.parametrize("start", ["identity", "random", "descriptor"])
def test_it_begins_where_it_is_told(start):
    problem = mlp(1)
    other, answer = problem.planted(4)
    found = problem.match(other, method="sinkhorn", starts=(start,))
    assert found.start == start
    assert same(found.permutations, answer)


def test_restarts_never_make_it_worse():
    problem, other = example("mlp_residual", 1), example("mlp_residual", 2).state
    reached = [
        problem.match(other, method="sinkhorn", restarts=count).objective.after for count in (0, 2)
    ]
    assert reached[0] <= reached[1] * (1 + 1e-6)


def test_families_that_may_not_move_stay():
    problem = structure("chain")
    found = problem.match(unrelated("chain", 1), method="sinkhorn", movable=frozenset({"h"}))
    assert found.permutations["k"].moved == 0 < found.permutations["h"].moved


def test_it_does_not_change_the_models():
    problem, other = mlp(1), mlp(2).state
    copies = [{n: v.clone() for n, v in state.items()} for state in (problem.state, other)]
    problem.match(other, method="sinkhorn")
    for state, copy in zip((problem.state, other), copies, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)

"""Permutations learned from the loss of the midpoint: the estimator, the choice, the going on."""

from dataclasses import replace
from math import ceil, isinf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from rebasin_cli.commands.align.straight_through.estimator import (
    LearningTask,
    epochs,
    start_learning,
)
from rebasin_cli.commands.align.straight_through.midpoints import Midpoints
from rebasin_cli.errors import UserCodeError
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.search.descent import projection
from rebasin_cli.merging.sources import Mean
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.permutation import identity, inverse
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Window
from tests.commands.align.tiny import (
    batches,
    bound_spec,
    network,
    random_state,
    trained,
    whole_windows,
)
from tests.proof import draw

BOUND = bound_spec()
STILL = {g.name: identity(g.shape, g.parents) for g in BOUND.groups.values()}
FAST = 0.05  # a learning rate at which permutations change within an epoch


def everything(name):
    return True


def between(a, b):
    def midpoint(permutations):
        moved = Permuted(InMemory(b), BOUND.tensors, permutations)
        return Mean((InMemory(a), moved), (1, 1), 0, everything)

    return midpoint


def split(data=None, share=0.2):
    data = batches() if data is None else data
    return DataSplit(Batches(lambda: data, name="data.py:batches"), share)


def voting(state):
    return {name: state[name].clone() for t in BOUND.tensors for name in t.members}


def course(a, b, *, model=None, data=None, rate=FAST, check=None):
    model = network() if model is None else model
    return LearningTask(
        midpoints=Midpoints(model, whole_windows(a), between(a, b)),
        split=split(data),
        project=projection(InMemory(b), BOUND, Settings(), dtype=torch.float32),
        rate=rate,
        check=check,
    )


def learned(a, b, start, until, **more):
    """Return the states before the first and after each epoch."""
    lessons = course(a, b, **more)
    first = start_learning(lessons, voting(a), start)
    return [first, *epochs(lessons, first, until)]


def by_weights(a, b):
    return match_weights(InMemory(a), InMemory(b), BOUND).permutations


def equal(one, other):
    """Return whether two states are the same, bit for bit."""
    tensors = all(
        torch.equal(getattr(one, part)[name], values)
        for part in ("free", "velocity")
        for name, values in getattr(other, part).items()
    )
    rest = [replace(state, free={}, velocity={}) for state in (one, other)]
    return tensors and rest[0] == rest[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_that_of_the_straight_through_expression(seed):
    a, b, order = random_state(seed), random_state(seed + 10), draw(BOUND, seed)
    (x, y), *_ = batches()
    free = {name: values.clone().requires_grad_() for name, values in a.items()}
    moved = Permuted(InMemory(b), BOUND.tensors, order)
    mid = {
        name: (a[name] + (moved.load(name) + free[name] - free[name].detach())) / 2 for name in a
    }
    loss = F.cross_entropy(functional_call(network(), mid, (x,)).double(), y)
    loss.backward()
    midpoints = Midpoints(network(), whole_windows(a), between(a, b))
    batch = next(iter(split([(x, y)]).batches))
    slope = midpoints.slope(order, batch, "the data")
    for name, values in free.items():
        torch.testing.assert_close(slope[name], values.grad, rtol=1e-5, atol=1e-7)
    # with one batch, which is then held out, the loss is that of the same expression
    assert midpoints.held_out(order, split([(x, y)])) == pytest.approx(
        float(loss.detach()), rel=1e-6
    )


def test_the_slope_of_a_step_is_the_rise_of_the_loss():
    a, b = random_state(1), random_state(2)
    (x, y), *_ = batches()
    batch = next(iter(split([(x, y)]).batches))
    double = {name: values.double() for name, values in a.items()}
    other = {name: values.double() for name, values in b.items()}
    slope = Midpoints(network().double(), whole_windows(a), between(double, other)).slope(
        STILL, replace(batch, example=replace(batch.example, args=(x.double(),))), "the data"
    )
    step, name = 1e-5, "2.weight"
    direction = torch.randn(a[name].shape, generator=torch.Generator().manual_seed(0)).double()

    def loss(sign):
        mid = {n: (double[n] + other[n]) / 2 for n in a}
        mid[name] = mid[name] + sign * step * direction / 2  # half of a step of the free ones
        return float(F.cross_entropy(functional_call(network().double(), mid, (x.double(),)), y))

    rise = (loss(1) - loss(-1)) / (2 * step)
    assert float((slope[name] * direction).sum()) == pytest.approx(rise, rel=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_what_is_kept_is_never_worse_than_the_start(seed):
    a, b, start = random_state(seed), random_state(seed + 1), draw(BOUND, seed)
    *_, last = learned(a, b, start, 2, rate=0.5)
    judge = course(a, b).midpoints
    assert last.least <= last.losses[0]
    assert judge.held_out(last.best, split()) == pytest.approx(last.least, rel=1e-6)
    assert last.least <= min(last.losses)


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_order_is_kept(seed):
    a, order = trained(1), draw(BOUND, seed)
    b = {n: Permuted(InMemory(a), BOUND.tensors, order).load(n).clone() for n in a}
    first, *_, last = learned(a, b, by_weights(a, b), 2, rate=1e-3)
    assert last.best == first.best
    assert Permuted(InMemory(b), BOUND.tensors, last.best).load("2.weight").equal(a["2.weight"])
    assert last.best == inverse(order)


def test_the_loss_of_the_midpoint_of_trained_networks_falls():
    a, b = trained(1), trained(2)
    *_, last = learned(a, b, by_weights(a, b), 8)
    assert last.least < last.losses[0] - 1e-3
    assert last.best_epoch > 0


def test_more_looks_give_more_candidates():
    a, b = trained(1), trained(2)
    *_, often = learned(a, b, by_weights(a, b), 4, check=1)
    *_, seldom = learned(a, b, by_weights(a, b), 4)
    assert often.losses == seldom.losses
    assert often.least < seldom.least


def test_the_first_step_is_a_share_of_the_reference_and_sets_the_unit_for_all():
    a, b = trained(1), trained(2)
    one_step = batches(2)  # of which one is held out
    states = learned(a, b, STILL, 3, data=one_step, rate=0.25)

    def length(tensors):
        return float(torch.cat([values.flatten() for values in tensors]).double().norm())

    first, later = states[0].free, states[1].free
    step = length([later[name] - first[name] for name in first])
    assert step == pytest.approx(0.25 * length(first.values()), rel=1e-5)
    assert len({state.unit for state in states[1:]}) == 1


def test_the_same_start_gives_the_same_end():
    a, b = trained(1), trained(2)
    one, two = (learned(a, b, STILL, 3)[-1] for _ in range(2))
    assert equal(one, two)


@pytest.mark.parametrize("stop", range(3))
def test_going_on_from_an_epoch_is_as_if_nothing_had_stopped(stop):
    a, b = trained(1), trained(2)
    states = learned(a, b, STILL, 4, check=3)
    lessons = course(a, b, check=3)
    *_, again = epochs(lessons, states[stop], 4)
    assert again.epoch == 4
    assert equal(again, states[-1])
    assert list(epochs(lessons, again, 4)) == []


def normed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )


def always(state):
    """Return what gives the same tensors for all permutations."""
    source = InMemory(state)
    return lambda permutations: source


def test_norms_use_the_batch_and_dropout_is_off():
    a = dict(normed().state_dict())
    spoilt = {**a, "1.running_mean": a["1.running_mean"] + 7, "1.running_var": a["1.running_var"]}
    plain = nn.Sequential(*normed()[:3], nn.Identity(), normed()[4]).train()
    (x, y), *_ = batches()
    with torch.no_grad():
        expected = float(F.cross_entropy(plain(x).double(), y))
    for state in (a, spoilt):
        model = normed()
        midpoints = Midpoints(model, whole_windows(state), always(state))
        assert midpoints.held_out({}, split([(x, y)])) == pytest.approx(expected, rel=1e-6)


def test_a_slope_is_cut_as_the_checkpoint_cuts_the_tensor():
    model = nn.Linear(6, 3, bias=False)
    windows = {
        "upper": Window("weight", (2, 6), (6, 1)),
        "turned": Window("weight", (6, 1), (1, 6), 12),
    }
    state = {"upper": torch.ones(2, 6), "turned": torch.zeros(6, 1)}
    midpoints = Midpoints(model, windows, always(state))
    batch = next(iter(split(batches(1)).batches))
    slope = midpoints.slope({}, batch, "the data")
    assert model.weight.grad is not None
    whole = model.weight.grad / 2
    assert slope["upper"].equal(whole[:2])
    assert slope["turned"].equal(whole[2:].T)


@given(count=st.integers(1, 400), share=st.integers(1, 99))
@settings(deadline=None)
def test_a_share_of_the_batches_is_held_out(count, share):
    parts = split([], share / 100)
    held = [k for k in range(count) if parts.holds_out(k)]
    assert len(held) == ceil(count * share / 100)
    assert held[0] == 0


def test_the_parts_are_all_batches_each_once():
    data = [torch.full((2, 1), float(k)) for k in range(9)]
    parts = split(data)
    values = [
        [int(batch.example.args[0][0, 0]) for batch in part()]
        for part in (parts.held_out, parts.learned)
    ]
    assert values == [[0, 5], [1, 2, 3, 4, 6, 7, 8]]


def test_one_batch_is_too_few():
    a, b = trained(1), trained(2)
    lessons = course(a, b, data=batches(1))
    first = start_learning(lessons, voting(a), STILL)
    with pytest.raises(UserCodeError, match="every batch is held out, none is left to learn from"):
        list(epochs(lessons, first, 1))


def test_a_loss_that_is_no_number_ends_learning_and_keeps_the_best():
    a, b = trained(1), trained(2)
    data = batches()
    data[7] = (torch.full_like(data[7][0], torch.nan), data[7][1])
    states = learned(a, b, STILL, 3, data=data, check=1)
    assert len(states) == 2
    assert states[-1].stopped == "the loss had no finite slope in batch 6 of epoch 1"
    assert states[-1].epoch == 0
    assert states[-1].least <= states[0].least


def test_parameters_that_run_away_end_learning():
    a, b = trained(1), trained(2)
    *_, last = learned(a, b, STILL, 3, rate=1e30)
    assert last.stopped == "the free parameters ran away in batch 1 of epoch 1"
    assert not isinf(last.least)


def test_a_midpoint_without_a_loss_is_refused():
    a, b = trained(1), trained(2)
    data = [(torch.full((4, 6), torch.nan), torch.zeros(4).long()), *batches()]
    with pytest.raises(UserCodeError, match=r"data.py:batches: the loss of the midpoint is nan"):
        start_learning(course(a, b, data=data), voting(a), STILL)


class Blocked(nn.Sequential):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_a_model_without_gradients_is_refused():
    a, b = trained(1), trained(2)
    with pytest.raises(UserCodeError, match="the model's loss has no gradient"):
        learned(a, b, STILL, 1, model=Blocked(*network()))


def test_data_without_targets_are_refused():
    a, b = trained(1), trained(2)
    with pytest.raises(UserCodeError, match="yields no targets"):
        learned(a, b, STILL, 1, data=[x for x, _ in batches()])

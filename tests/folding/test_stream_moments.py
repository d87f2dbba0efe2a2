"""What streams do on data: normalised, without the bias that a norm may keep."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from rebasin_cli.folding.stream_moments import stream_moments
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Window
from tests.symmetry.small import TOKENS, WORDS, case


def measured(found, *states):
    """Return what streams of models do with these weights; all tensors are float64."""
    nets = []
    for state in states:
        net = deepcopy(found.net).double()
        net.load_state_dict(state)
        nets.append(net)
    state = states[0]
    network = Network(
        subject_of(lambda: found.net),
        {n: Window.whole(InMemory(state).info(n)) for n in state},
    )
    tokens = torch.arange(TOKENS) * 3 % WORDS
    sources = [InMemory(state) for state in states]
    return stream_moments(nets, sources, network, found.plan, Batches(lambda: [tokens]))


def moments(state, found):
    return measured(found, state, state).between(0, 1)


def test_moments_are_those_of_unit_vectors_whatever_bias_a_norm_keeps():
    found = case("layer norm")
    state = found.folded
    still = moments(state, found)["stream"]
    assert torch.allclose(still, still.T)
    assert float(still.trace()) == pytest.approx(12 * TOKENS * len(found.plan.norms))
    moved = {**state, "norm.bias": state["norm.bias"] + 3}
    assert torch.allclose(moments(moved, found)["stream"], still, rtol=0, atol=1e-9)


def test_moments_of_three_models_are_those_of_each_two_either_way_round():
    found = case("rotary")
    states = [case("rotary", seed).folded for seed in range(3)]
    three = measured(found, *states)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pair = measured(found, states[first], states[second]).between(0, 1)["stream"]
        assert torch.equal(three.between(first, second)["stream"], pair)
        assert torch.equal(three.between(second, first)["stream"], pair.T)


def test_a_stream_that_is_only_permuted_is_not_measured():
    found = case("rotary")
    bound = found.plan.bound
    groups = {**bound.groups, "stream": replace(bound.groups["stream"], maps="permutation")}
    plan = replace(found.plan, bound=replace(bound, groups=groups))
    assert measured(replace(found, plan=plan), found.folded, found.folded).between(0, 1) == {}

"""What streams do on data: normalised, without the bias that a norm may keep."""

import pytest
import torch

from rebasin_cli.folding.stream_moments import stream_moments
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Window
from tests.symmetry.small import TOKENS, WORDS, case


def moments(state, found):
    found.net.double().load_state_dict(state)
    network = Network(
        subject_of(lambda: found.net),
        {n: Window.whole(InMemory(state).info(n)) for n in state},
    )
    tokens = torch.arange(TOKENS) * 3 % WORDS
    source = InMemory(state)
    nets = (found.net, found.net)
    return stream_moments(
        nets, (source, source), network, found.plan, Batches(lambda: [tokens])
    ).between(0, 1)


def test_moments_are_those_of_unit_vectors_whatever_bias_a_norm_keeps():
    found = case("layer norm")
    state = found.folded
    still = moments(state, found)["stream"]
    assert torch.allclose(still, still.T)
    assert float(still.trace()) == pytest.approx(12 * TOKENS * len(found.plan.norms))
    moved = {**state, "norm.bias": state["norm.bias"] + 3}
    assert torch.allclose(moments(moved, found)["stream"], still, rtol=0, atol=1e-9)

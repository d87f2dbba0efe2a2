"""What is drawn for a proof: an order that moves nothing would prove nothing."""

import logging

import pytest
import torch
from torch import nn

from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.tracer.proof.proof import random_permutations
from rebasin_cli.tracer.trace import trace


@pytest.mark.parametrize("seed", range(12))
def test_every_group_moves_even_one_of_two_units(seed: int) -> None:
    net = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    found = random_permutations(trace(subject_of(net)).bound, seed)
    assert len(found) == 2
    assert all(torch.equal(order.index, torch.tensor([1, 0])) for order in found.values())


class Talker(nn.Linear):
    """Warns when it is cast, as models of diffusers do."""

    def to(self, *args, **kwargs):
        logging.getLogger("talker").warning("should be kept in float32")
        return super().to(*args, **kwargs)


def test_a_proof_keeps_away_what_a_model_says_when_it_is_cast(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert trace(subject_of(Talker(4, 3))).proof is not None
    assert caplog.messages == []

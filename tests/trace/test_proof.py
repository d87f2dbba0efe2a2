"""What is drawn for a proof: an order that moves nothing would prove nothing."""

import pytest
import torch
from torch import nn

from rebasin_cli.models import subject_of
from rebasin_cli.trace import trace
from rebasin_cli.trace.proof import random_permutations


@pytest.mark.parametrize("seed", range(12))
def test_every_group_moves_even_one_of_two_units(seed: int) -> None:
    net = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    found = random_permutations(trace(subject_of(net)).bound, seed)
    assert len(found) == 2
    assert all(torch.equal(order.index, torch.tensor([1, 0])) for order in found.values())

"""Finished models are copied, whatever hangs on them; what cannot be copied says what to pass."""

from __future__ import annotations

from threading import Lock

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.user.user_model import subject_of


def test_a_finished_model_is_copied_and_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout())
    built = subject_of(model).build()
    assert model.training
    assert not built.training
    assert built is not model
    assert torch.equal(built.get_parameter("0.weight"), model.get_parameter("0.weight"))
    with pytest.raises(UsageError, match="finished model"):
        subject_of(model, model_args={"width": 3})


class Remembers(nn.Linear):
    """A model that keeps what it computed, graph and all, and a weight that its norm computes."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = {"sums": [super().forward(x)]}
        return self.seen["sums"][0]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_finished_model_that_keeps_computed_tensors_is_copied() -> None:
    model = nn.utils.weight_norm(Remembers(3, 4))
    model(torch.ones(2, 3))
    built = subject_of(model).build()
    assert torch.equal(built(torch.ones(2, 3)), model(torch.ones(2, 3)))
    assert model.seen["sums"][0].grad_fn is not None


def test_a_finished_model_that_cannot_be_copied_says_what_to_pass() -> None:
    model = nn.Linear(3, 4)
    vars(model)["lock"] = Lock()
    with pytest.raises(UsageError, match="Linear cannot be built") as caught:
        subject_of(model).build()
    assert "name a class or a function that builds it" in str(caught.value)

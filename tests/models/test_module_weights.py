"""Tensors written into a model that is built."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebasin_cli.models.module_weights import fill, held_infos, renew
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Window


class Kept(nn.Module):
    """Keeps what it makes of its parameters in eval mode, as attention biases of LeViT are."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.inner = nn.Dropout()
        self.kept: list[Tensor] = []

    def train(self, mode: bool = True) -> Kept:
        super().train(mode)
        self.kept = [] if mode else self.kept
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.kept or [self.bias * 2]
        return x + self.kept[0]


def test_a_model_that_is_filled_forgets_the_tensors_before() -> None:
    model = Kept().eval()
    model(torch.zeros(3))
    windows = {name: Window.whole(info) for name, info in held_infos(model).items()}
    fill(model, InMemory({"bias": torch.ones(3)}), windows)
    assert model(torch.zeros(3)).tolist() == [2, 2, 2]


def test_the_modes_of_a_model_stay_where_it_makes_something_anew() -> None:
    model = Kept()
    model.inner.training = False
    renew(model)
    assert (model.training, model.inner.training) == (True, False)

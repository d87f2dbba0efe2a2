"""Layers as products of rows and a matrix, and which modules are none."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from rebasin_cli.commands.merge.least_squares.solvable_layers import (
    as_matrix,
    as_weight,
    rows_read,
    solvable_layers,
)
from rebasin_cli.models.module_weights import held_infos
from rebasin_cli.tensors.blocks import Window


class Conv1D(nn.Module):
    """The Linear of GPT-2 in transformers: its weight is (in, out)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return x @ self.weight + self.bias


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 6), (3, 5, 4)),
    "turned": (Conv1D(), (3, 5, 4)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 11)),
    "dilated": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), stride=(1, 3)), (3, 4, 9, 8)),
    "same": (nn.Conv2d(4, 6, (3, 5), padding="same"), (3, 4, 9, 8)),
    "circular": (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular"), (3, 4, 9, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (3, 4, 9, 8)),
    "conv3d": (nn.Conv3d(4, 6, (1, 2, 3), stride=(1, 2, 1)), (3, 4, 3, 5, 6)),
    "unbatched": (nn.Conv2d(4, 6, 3), (4, 9, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_matrix_are_what_the_layer_returns(name):
    module, shape = LAYERS[name]
    module = module.double()
    values = torch.randn(*shape, dtype=torch.float64)
    matrix = as_matrix(module, module.weight)
    found = rows_read(module, values) @ matrix.mT  # (groups, samples, outputs)
    if module.bias is not None:
        found = found + module.bias.view(len(matrix), 1, -1)
    output = module(values)
    axis = -1 if name in ("linear", "turned") else -len(module.kernel_size) - 1
    expected = output.movedim(axis, -1).flatten(0, -2)
    assert torch.allclose(found.transpose(0, 1).flatten(1), expected)
    assert torch.equal(as_weight(module, matrix, module.weight), module.weight)


class Odd(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.first, self.normed, self.odd = nn.Linear(4, 4), weight_norm(nn.Linear(4, 4)), Odd(4, 4)
        self.norm, self.up = nn.LayerNorm(4), nn.ConvTranspose1d(4, 4, 2)
        self.left, self.head = nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def test_what_is_no_least_squares_problem_is_told_with_its_reason():
    model = Model()
    windows = {name: Window.whole(info) for name, info in held_infos(model).items()}
    found = solvable_layers(model, windows, lambda name: name != "left.bias")
    assert [(x.name, x.weight, x.bias) for x in found.layers] == [
        ("first", "first.weight", "first.bias")
    ]
    assert found.others == {
        "embed": "Embedding is no linear layer or convolution",
        "normed": "its weight is computed from other parameters",
        "odd": "Odd has a forward of its own",
        "up": "a transposed convolution",
        "left": "its tensors are not averaged whole",
        "head": "it shares parameters with embed",
    }

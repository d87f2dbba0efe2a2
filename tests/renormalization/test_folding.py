"""Corrections inside weights and buffers, for every type of layer; layers that take none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from rebasin_cli.models.batch import read_batch
from rebasin_cli.network.correctable_layers import Correction, find_correctable
from rebasin_cli.network.layers import Layer
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import renormalize
from rebasin_cli.renormalization.passes import fold_correction
from tests.renormalization.families import data, images, seeded, small


class Conv1D(nn.Module):
    """A Linear of GPT-2 in transformers, known by its name: its weight is (in, out)."""

    def __init__(self, inputs, out_channels, bias):
        super().__init__()
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.randn(inputs, out_channels))
        self.bias = nn.Parameter(torch.randn(out_channels)) if bias else None

    def forward(self, x):
        return x @ self.weight + (0 if self.bias is None else self.bias)


LAYERS: dict[str, Any] = {
    "Linear of GPT-2": (lambda b: Conv1D(6, 8, b), (5, 3, 6)),
    "Linear": (lambda b: nn.Linear(6, 8, bias=b), (5, 6)),
    "Linear over places": (lambda b: nn.Linear(6, 8, bias=b), (5, 3, 6)),
    "Conv1d": (lambda b: nn.Conv1d(6, 8, 3, bias=b), (5, 6, 9)),
    "Conv2d": (lambda b: nn.Conv2d(6, 8, 3, padding=1, bias=b), (5, 6, 7, 7)),
    "Conv2d without a batch": (lambda b: nn.Conv2d(6, 8, 3, bias=b), (6, 7, 7)),
    "Conv2d, reflected and dilated": (
        lambda b: nn.Conv2d(6, 8, 3, padding=2, dilation=2, padding_mode="reflect", bias=b),
        (5, 6, 7, 7),
    ),
    "Conv3d": (lambda b: nn.Conv3d(6, 8, 2, bias=b), (5, 6, 4, 4, 4)),
    "Conv2d, grouped": (lambda b: nn.Conv2d(6, 8, 3, groups=2, bias=b), (5, 6, 7, 7)),
    "ConvTranspose1d": (lambda b: nn.ConvTranspose1d(6, 8, 3, bias=b), (5, 6, 5)),
    "ConvTranspose2d": (lambda b: nn.ConvTranspose2d(6, 8, 3, stride=2, bias=b), (5, 6, 4, 4)),
    "ConvTranspose3d": (lambda b: nn.ConvTranspose3d(6, 8, 2, bias=b), (5, 6, 3, 3, 3)),
    "ConvTranspose2d, grouped": (
        lambda b: nn.ConvTranspose2d(6, 8, 3, groups=2, bias=b),
        (5, 6, 4, 4),
    ),
    "ConvTranspose1d, grouped": (
        lambda b: nn.ConvTranspose1d(6, 9, 3, groups=3, bias=b),
        (5, 6, 5),
    ),
}
NORMS: dict[str, Any] = {
    "BatchNorm1d": (nn.BatchNorm1d, (40, 4)),
    "BatchNorm1d over places": (nn.BatchNorm1d, (40, 4, 3)),
    "BatchNorm2d": (nn.BatchNorm2d, (40, 4, 3, 3)),
    "BatchNorm3d": (nn.BatchNorm3d, (40, 4, 2, 3, 2)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_fold_is_the_layer_with_its_output_corrected(kind, bias):
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, inputs = build(bias), torch.randn(shape)
    units = getattr(layer, "out_channels", layer.weight.shape[0])
    scale = torch.rand(units, dtype=torch.float64) * 2 + 0.5
    shift = torch.randn(units, dtype=torch.float64)
    with torch.no_grad():
        before = layer(inputs)
        axis = Layer("x", layer).axis(before)
        beside = [-1 if k == axis else 1 for k in range(before.dim())]
        wanted = before.double() * scale.view(beside)
        if bias:
            wanted = wanted + shift.view(beside)
        fold_correction(layer, Correction(scale, shift))
        assert torch.allclose(layer(inputs).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_a_reset_norm_has_the_mean_and_variance_of_its_inputs(kind):
    build, shape = NORMS[kind]
    torch.manual_seed(0)
    norm = build(4).eval()
    norm.num_batches_tracked.fill_(7)
    inputs = torch.randn(shape) * 3 + 5
    report = renormalize(norm, {}, data(inputs, 4), CorrectionSettings("reset"))
    rows = inputs.double().movedim(1, -1).flatten(0, -2)
    assert torch.allclose(norm.running_mean.double(), rows.mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var.double(), rows.var(0, correction=1), rtol=1e-6)
    assert int(norm.num_batches_tracked) == 7
    assert report.tensors == ("running_mean", "running_var")
    assert not norm.training


def test_a_sequential_reset_is_the_same_for_any_batches():
    found: list[Any] = []
    for batches in (1, 10):
        inner, last = seeded(small, 0), nn.BatchNorm2d(3)
        model = nn.Sequential(inner, nn.Unflatten(1, (3, 1, 1)), last, nn.Conv2d(3, 2, 1)).eval()
        renormalize(
            model, {}, data(images(), batches), CorrectionSettings("reset", sequential=True)
        )
        found.append((inner[3].running_var, last.running_var))
    for one, ten in zip(*found, strict=True):
        assert torch.allclose(one, ten, rtol=1e-5)
    assert not torch.allclose(found[0][1], torch.ones(3), rtol=0.01)


class Odd(nn.Module):
    """One layer for each reason to be left alone."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.normed = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.seen = nn.Linear(6, 6)
        self.later = nn.BatchNorm1d(6, track_running_stats=False)
        self.computed = weight_norm(nn.Linear(6, 6))
        self.twice = nn.Linear(6, 6)
        self.again = self.twice
        self.lonely = nn.Linear(6, 6)
        self.changed = nn.Linear(6, 6)
        self.after = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.norm(self.normed(self.words(tokens)))
        x = self.computed(self.later(torch.relu(self.seen(x))))
        x = self.again(self.twice(x))
        x = self.after(torch.relu_(self.changed(x)))
        return {"logits": self.head(x)}


def test_layers_that_cannot_be_corrected_are_named_with_the_reason():
    torch.manual_seed(0)
    model = Odd().eval()
    with torch.no_grad():
        found = find_correctable(model, read_batch(torch.arange(9)))
    assert [site.name for site in found.corrected] == ["norm", "seen", "changed", "after"]
    assert {s.name: s.why for s in found.skipped} == {
        "normed": "a BatchNorm follows",
        "later": "it keeps no statistics",
        "computed": "its weight is computed from other parameters",
        "twice": "it shares parameters with again.weight",
        "lonely": "the pass does not call it",
        "head": "it shares parameters with words.weight",
    }


def test_a_pass_of_a_sequence_ends_at_the_layer_that_is_measured():
    model, ran = seeded(small, 0), []
    model[12].register_forward_hook(lambda *_: ran.append(1))
    renormalize(model, {}, data(images(), 2), CorrectionSettings("reset", sequential=True))
    assert ran == [1]  # to see which layers there are

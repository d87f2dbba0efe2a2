"""Layer by layer: ratios against hand computations, limits, and what cannot be measured."""

import copy

import pytest
import torch
from torch import nn

from rebasin_cli.commands.barrier.layers.figures import Trio, diagnose_layers
from rebasin_cli.commands.barrier.layers.sums import SampledOutputs, layer_sums
from rebasin_cli.errors import UserCodeError
from rebasin_cli.network.batches import Batches


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def sums(a, b, midpoint=None, zeros=None):
    return layer_sums(SampledOutputs(a, b, (a + b) / 2 if midpoint is None else midpoint, zeros))


def mlp(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def halfway(a, b):
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for mine, x, y in zip(middle.parameters(), a.parameters(), b.parameters(), strict=True):
            mine.copy_((x + y) / 2)
    return middle


def batches(*values):
    return Batches(lambda: values)


def test_the_midpoint_of_a_model_with_itself_is_like_its_parents():
    model = mlp(0)
    found = diagnose_layers(Trio(model, copy.deepcopy(model), model), batches(randn(40, 6).float()))
    assert [layer.name for layer in found.layers] == ["0", "2"]
    for layer in found.layers:
        assert layer.variance == pytest.approx(1)
        assert layer.response == pytest.approx(1)
        assert layer.similarity == pytest.approx(1)
        assert layer.correlation == pytest.approx(1)
    assert (found.calibration, found.no_zero) == (None, "")


def test_figures_are_those_of_direct_formulas():
    a, b, x = mlp(1), mlp(2), randn(50, 6).float()
    middle = halfway(a, b)
    found = diagnose_layers(Trio(a, b, middle), batches(x[:20], x[20:])).layers[1]
    with torch.no_grad():
        outs = [model(x).double() for model in (a, b, middle)]
        shifts = [(model(x) - model(0 * x)).double() for model in (a, b, middle)]
    total = [out.var(0, unbiased=False).sum() for out in outs]
    rms = [shift.square().sum(1).mean().sqrt() for shift in shifts]
    assert found.variance == pytest.approx(float(2 * total[2] / (total[0] + total[1])))
    assert found.response == pytest.approx(float(2 * rms[2] / (rms[0] + rms[1])))
    each = [torch.corrcoef(torch.stack([outs[0][:, k], outs[1][:, k]]))[0, 1] for k in range(3)]
    assert found.correlation == pytest.approx(float(torch.stack(each).mean()))


def test_similarity_of_a_layer_with_itself_is_one_however_it_is_rotated():
    x = randn(30, 5)
    rotation = torch.linalg.qr(randn(5, 5, seed=1)).Q
    for other in (x, x[:, torch.randperm(5)], x @ rotation, 3 * x @ rotation + 7):
        assert sums(x, other).similarity == pytest.approx(1)


def test_similarity_is_that_of_kernels():
    x, y = randn(30, 5), randn(30, 4, seed=1)[:, [0, 1, 2, 3, 0]]
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert sums(x, y).similarity == pytest.approx(float(expected))


def test_matched_correlation_follows_the_order_of_units_but_similarity_does_not():
    x = randn(500, 6)
    swapped = x[:, [1, 0, 3, 2, 5, 4]]
    assert sums(x, swapped).similarity == pytest.approx(1)
    assert abs(sums(x, swapped).correlation) < 0.1


def test_independent_parents_leave_half_of_the_variance():
    assert sums(randn(20000, 4), randn(20000, 4, seed=1)).variance == pytest.approx(0.5, abs=0.02)


def test_units_that_never_vary_are_left_out_of_the_correlation():
    a, b = randn(40, 3), randn(40, 3)
    b[:, 2] = 4.0
    assert sums(a, b).correlation == pytest.approx(1)
    dead = torch.ones(9, 2)
    found = sums(dead, dead)
    assert (found.variance, found.similarity, found.correlation) == (None, None, None)


def test_sums_over_batches_are_those_over_all():
    a, b = randn(90, 4), randn(90, 4, seed=1)
    zeros = tuple(torch.zeros(1, 4) for _ in range(3))
    parts = sums(a[:17], b[:17], zeros=zeros).joined(sums(a[17:], b[17:], zeros=zeros))
    whole = sums(a, b, zeros=zeros)
    for name in ("variance", "response", "similarity", "correlation"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_wide_layers_have_no_similarity(monkeypatch):
    monkeypatch.setattr("rebasin_cli.commands.barrier.layers.sums.WIDEST", 3)
    assert sums(randn(9, 4), randn(9, 4)).similarity is None
    assert sums(randn(9, 4), randn(9, 4)).correlation == pytest.approx(1)


def test_similarity_of_many_samples_is_that_of_some_of_them(monkeypatch):
    monkeypatch.setattr("rebasin_cli.commands.barrier.layers.sums.SAMPLES", 4000)
    a = randn(8000, 4)
    b = a + randn(8000, 4, seed=1)
    found = sums(a, b).products
    assert found is not None
    assert found[0].a.count == 4000
    assert sums(a, b).similarity == pytest.approx(sums(a[:4000], b[:4000]).similarity, rel=0.05)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids):
        return self.out(self.embed(ids))


def test_integers_have_no_zero_and_the_reason_is_told():
    torch.manual_seed(0)
    model = Words().eval()
    ids = torch.arange(6).reshape(2, 3)
    found = diagnose_layers(Trio(model, model, model), batches((ids, ids)))
    assert found.no_zero == "the inputs are integers, of which none is zero"
    assert [layer.response for layer in found.layers] == [None]
    assert found.calibration is not None
    assert len(set(found.calibration)) == 1


def test_places_of_an_image_are_samples():
    torch.manual_seed(0)
    a, b = nn.Sequential(nn.Conv2d(2, 3, 3)).eval(), nn.Sequential(nn.Conv2d(2, 3, 3)).eval()
    x = randn(4, 2, 5, 5).float()
    found = diagnose_layers(Trio(a, b, halfway(a, b)), batches(x)).layers[0]
    with torch.no_grad():
        flat = [m(x).double().transpose(0, 1).flatten(1) for m in (a, b, halfway(a, b))]
    total = [f.var(1, unbiased=False).sum() for f in flat]
    assert found.variance == pytest.approx(float(2 * total[2] / (total[0] + total[1])))
    assert (found.units, found.kind) == (3, "Conv2d")


def test_a_model_without_layers_cannot_be_measured():
    model = nn.Sequential(nn.ReLU()).eval()
    with pytest.raises(UserCodeError, match="calls no layer whose units could be measured"):
        diagnose_layers(Trio(model, model, model), batches(torch.ones(2, 3)))

"""Moments of units in one model or two, and what makes two units alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.activations import units as under_test
from rebasin_cli.activations.units import SIMILARITIES, unit_moments

DIMS = (("h", 6),)


def pair(count=1000, units=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, units, generator=generator) + torch.arange(units)
    return a, a.flip(1) * 0.5 + torch.randn(count, units, generator=generator)


def close(one, other):
    return torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_ten_batches_of_a_hundred_are_one_of_a_thousand():
    a, b = pair()
    whole = unit_moments(DIMS, "x", [a, b])
    parts = [
        unit_moments(DIMS, "x", [x, y]) for x, y in zip(a.split(100), b.split(100), strict=True)
    ]
    found = parts[0]
    for part in parts[1:]:
        found = found.joined(part)
    assert found.count == whole.count == 1000
    for similarity in SIMILARITIES.values():
        assert close(similarity(found.cross), similarity(whole.cross))
    for one, other in zip(found.models, whole.models, strict=True):
        assert close(one.mean, other.mean) and close(one.variance, other.variance)


@given(st.integers(1, 40), st.integers(1, 5))
def test_pieces_do_not_change_the_result(rows, units):
    a, b = pair(rows, units)
    with pytest.MonkeyPatch.context() as patch:
        whole = unit_moments((("h", units),), "x", [a, b])
        patch.setattr(under_test, "AT_ONCE", 3 * units)
        patch.setattr(under_test, "ROWS", 0)
        pieces = unit_moments((("h", units),), "x", [a, b])
    assert pieces.count == whole.count == rows
    assert close(pieces.cross.covariance, whole.cross.covariance)
    assert close(pieces.models[1].variance, whole.models[1].variance)


def test_what_the_similarities_are():
    a, b = (values.double() for values in pair())
    found = unit_moments(DIMS, "x", [a, b]).cross
    products = a.T @ b / len(a)
    lengths = (a.square().sum() * b.square().sum()).sqrt() / len(a)
    assert close(SIMILARITIES["inner"](found), products / lengths)
    centred = (a - a.mean(0)).T @ (b - b.mean(0)) / len(a)
    spread = (a.var(0, correction=0).sum() * b.var(0, correction=0).sum()).sqrt()
    assert close(SIMILARITIES["covariance"](found), centred / spread)
    pearson = torch.corrcoef(torch.cat([a, b], 1).T)[:6, 6:]
    assert close(SIMILARITIES["correlation"](found), pearson / 6)
    assert close(SIMILARITIES["absolute"](found), pearson.abs() / 6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_place_sums_to_one_where_two_models_do_the_same(name):
    a, _ = pair()
    found = SIMILARITIES[name](unit_moments(DIMS, "x", [a, a]).cross)
    assert found.diagonal().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_units_that_never_do_anything_are_like_none(name):
    zero = torch.zeros(20, 6)
    assert SIMILARITIES[name](unit_moments(DIMS, "x", [zero, zero]).cross).abs().max() == 0


def test_one_model_has_moments_and_no_products():
    a, _ = pair()
    found = unit_moments(DIMS, "x", [a[:400]]).joined(unit_moments(DIMS, "x", [a[400:]]))
    assert close(found.models[0].mean, a.double().mean(0))
    with pytest.raises(ValueError, match="seen in one model only"):
        assert found.cross


def test_swapped_is_the_other_way_round():
    a, b = pair()
    swapped, there = unit_moments(DIMS, "x", [a, b]).swapped, unit_moments(DIMS, "x", [b, a])
    assert close(swapped.cross.covariance, there.cross.covariance)
    assert close(swapped.models[0].mean, there.models[0].mean)

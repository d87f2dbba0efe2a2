"""Weights from sums over samples: what numpy's least squares finds, and what it leaves open."""

import numpy as np
import pytest
import torch

from rebasin_cli.commands.merge.least_squares.normal_equations import (
    OutputPart,
    error_of,
    layer_sums,
    solved_weights,
)

TINY = 1e-12  # a ridge that moves no digit that is compared


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everything(inputs, outputs):
    return (OutputPart(torch.arange(outputs), torch.arange(inputs)),)


def test_two_linear_networks_have_the_weights_that_numpy_finds():
    x, other = draw(80, 5), draw(80, 5, seed=1)
    a, b = draw(3, 5, seed=2), draw(3, 5, seed=3)
    z, y = (x + other) / 2, (x @ a.T + other @ b.T) / 2
    z = torch.cat([z, torch.ones(80, 1)], 1)
    expected = np.linalg.lstsq(z.numpy(), y.numpy(), rcond=None)[0].T
    found = solved_weights(
        layer_sums(z[None], y[None]), torch.zeros(1, 3, 6).double(), everything(6, 3), ridge=TINY
    )
    assert np.allclose(found[0], expected, atol=1e-9)


def test_groups_are_solved_one_by_one():
    z, y = draw(4, 50, 3), draw(4, 50, 2, seed=1)
    start = torch.zeros(4, 2, 3).double()
    found = solved_weights(layer_sums(z, y), start, everything(3, 2), ridge=TINY)
    for group in range(4):
        sums = layer_sums(z[[group]], y[[group]])
        alone = solved_weights(sums, start[[group]], everything(3, 2), ridge=TINY)
        assert torch.allclose(found[group], alone[0], atol=1e-12)


def test_batches_are_joined_exactly():
    z, y = draw(2, 60, 4), draw(2, 60, 3, seed=1)
    whole = layer_sums(z, y)
    parts = layer_sums(z[:, :7], y[:, :7]).joined(layer_sums(z[:, 7:], y[:, 7:]))
    assert parts.count == whole.count == 60
    for name in ("inner", "cross", "total", "square"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name), atol=1e-12), name


def test_what_samples_leave_open_stays_as_in_the_average():
    z = torch.zeros(1, 30, 6).double()
    z[..., :2] = draw(1, 30, 2)  # the other four inputs are dead, the last two of them copies
    z[..., 4] = z[..., 5] = z[..., 0]
    average = draw(1, 3, 6, seed=4)
    y = z @ average.mT + 0.1 * z[..., :1]
    found = solved_weights(layer_sums(z, y), average, everything(6, 3))
    assert torch.equal(found[..., 2:4], average[..., 2:4])
    assert (found - average).abs().max() < 0.2
    assert torch.allclose(z @ found.mT, y, atol=1e-3)


def test_without_any_signal_nothing_moves():
    average = draw(1, 3, 4)
    zero = torch.zeros(1, 10, 4).double()
    found = solved_weights(layer_sums(zero, draw(1, 10, 3)), average, everything(4, 3))
    assert torch.equal(found, average)


def test_an_average_that_is_right_stays_to_the_last_digits():
    z, average = draw(1, 100, 4), draw(1, 3, 4, seed=1)
    found = solved_weights(layer_sums(z, z @ average.mT), average, everything(4, 3))
    assert torch.allclose(found, average, atol=1e-12)


def test_a_part_leaves_what_it_may_not_read():
    z, y, average = draw(1, 50, 4), draw(1, 50, 3, seed=1), torch.zeros(1, 3, 4).double()
    found = solved_weights(
        layer_sums(z, y), average, (OutputPart(torch.tensor([0, 2]), torch.tensor([1, 3])),)
    )
    assert torch.equal(found[0, 1], average[0, 1])
    assert not found[0][:, [0, 2]].any()
    assert found[0][[0, 2]][:, [1, 3]].all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_error_is_that_of_the_outputs_over_their_variance(scale):
    z, y, weights = scale * draw(1, 50, 4), scale * draw(1, 50, 3, seed=1), draw(1, 3, 4, seed=2)
    expected = (z @ weights.mT - y).square().sum() / (y - y.mean(1, keepdim=True)).square().sum()
    assert error_of(layer_sums(z, y), weights) == pytest.approx(float(expected))

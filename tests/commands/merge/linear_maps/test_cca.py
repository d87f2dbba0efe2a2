"""Canonical correlation: copies, rotations and invertible maps are undone; dead units stay."""

import pytest
import torch

from rebasin_cli.commands.merge.linear_maps.linear_methods import cca_maps


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def maps(a, b, **more):
    return cca_maps(torch.cov(torch.cat([a, b], 1).T, correction=0), **more)


def invertible(size, seed=5):
    return torch.eye(size).double() + 0.4 * randn(size, size, seed=seed)


def test_read_undoes_write_whatever_the_data():
    for gamma in (0.0, 0.1, 10.0):
        _, found = maps(randn(90, 7), randn(90, 7, seed=1), gamma=gamma)
        assert torch.allclose(found.write @ found.read, torch.eye(7).double(), atol=1e-9)


def test_the_first_model_stays():
    first, _ = maps(randn(90, 4), randn(90, 4, seed=1))
    assert torch.equal(first.write, torch.eye(4).double())
    assert torch.equal(first.read, torch.eye(4).double())


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_a_copy_stays_and_a_rotated_copy_is_rotated_back(gamma):
    x = randn(200, 6) @ invertible(6, seed=2)
    rotation = torch.linalg.qr(randn(6, 6, seed=3)).Q
    assert torch.allclose(maps(x, x, gamma=gamma)[1].write, torch.eye(6).double(), atol=1e-4)
    found = maps(x, x @ rotation.T, gamma=gamma)[1]
    assert torch.allclose(found.write, rotation.T, atol=1e-4)


def test_an_invertible_map_is_undone_without_regularisation():
    x, there = randn(400, 6), invertible(6)
    found = maps(x, x @ there.T, gamma=0.0)[1]
    assert torch.allclose(found.write @ there, torch.eye(6).double(), atol=1e-4)


def test_regularisation_is_relative_to_the_scale_of_the_units():
    x, y = randn(80, 5), randn(80, 5, seed=1)
    once, many = maps(x, y)[1], maps(1000 * x, 1000 * y)[1]
    assert torch.allclose(once.write, many.write)


def test_units_that_never_vary_in_either_model_stay_where_they_are():
    x = randn(300, 5)
    x[:, [1, 3]] = 0.0
    y = x.clone()
    y[:, [0, 2]] = y[:, [2, 0]]
    found = maps(x, y)[1]
    expected = torch.eye(5).double()[[2, 1, 0, 3, 4]]
    assert torch.allclose(found.write, expected, atol=1e-4)


def test_a_model_in_which_nothing_varies_stays():
    found = maps(torch.ones(9, 3).double(), randn(9, 3))[1]
    assert torch.equal(found.write, torch.eye(3).double())

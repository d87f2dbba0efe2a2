"""No map of a class is worth more than the one that its solver finds."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from rebasin_cli.spec.language.model import KEEPING_MEAN
from rebasin_cli.symmetry.class_solvers import SOLVERS


def similarities(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, size, size, generator=generator, dtype=torch.float64)


def worth(maps: Tensor, values: Tensor) -> Tensor:
    return (maps * values).sum((-2, -1))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [4, 6])
def test_maps_are_orthogonal_and_better_than_any_other_of_their_class(name: str, size: int) -> None:
    values = similarities(size)
    best = SOLVERS[name](values)
    unit = torch.eye(size, dtype=torch.float64).expand_as(best)
    assert torch.allclose(best @ best.mT, unit, atol=1e-12)
    centre = unit - 1 / size  # a stream without a mean has no similarities along the ones
    measured = centre @ values @ centre if name == KEEPING_MEAN else values
    for seed in range(1, 40):
        other = SOLVERS[name](similarities(size, seed))
        assert (worth(best, measured) >= worth(other, measured) - 1e-12).all()


def test_orders_and_signs_are_those_of_brute_force() -> None:
    (values,) = similarities(4)[:1]
    every = [torch.eye(4, dtype=torch.float64)[list(order)] for order in permutations(range(4))]
    signs = [torch.tensor(s, dtype=torch.float64) for s in product((1, -1), repeat=4)]
    best = max(float((m * values).sum()) for m in every)
    signed = max(float((s[:, None] * m * values).sum()) for m in every for s in signs)
    assert float(worth(SOLVERS["permutation"](values[None]), values)) == pytest.approx(best)
    assert float(worth(SOLVERS["signed"](values[None]), values)) == pytest.approx(signed)


def test_the_ones_stay_where_the_mean_has_to() -> None:
    found = SOLVERS[KEEPING_MEAN](similarities(5))
    ones = torch.ones(3, 5, 1, dtype=torch.float64)
    assert torch.allclose(found @ ones, ones, atol=1e-12)
    assert (SOLVERS["orthogonal"](similarities(5)) @ ones - ones).abs().max() > 0.1


@pytest.mark.parametrize("name", ["rotary", "rotary-interleaved"])
def test_phases_commute_with_rotary_positions(name: str) -> None:
    size = 6
    pairs = [(i, i + 3) for i in range(3)] if name == "rotary" else [(0, 1), (2, 3), (4, 5)]
    turn = torch.zeros(size, size, dtype=torch.float64)
    for k, (a, b) in enumerate(pairs):
        angle = torch.tensor(0.7 * k + 0.3, dtype=torch.float64)
        turn[a, a] = turn[b, b] = angle.cos()
        turn[b, a], turn[a, b] = angle.sin(), -angle.sin()
    found = SOLVERS[name](similarities(size))
    assert torch.allclose(found @ turn, turn @ found, atol=1e-12)
    assert not torch.allclose(found, found.diagonal(dim1=-2, dim2=-1).diag_embed(), atol=1e-3)

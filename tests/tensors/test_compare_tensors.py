"""How far apart two arrays are in units of their scale: what counts, and what does not."""

import math

import pytest
import torch

from rebasin_cli.tensors.compare import measure_gap, relative_difference

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([0.0, 0.0], [0.5, 0.0], 0.5),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], INF),
        ([1.0, NAN], [1.0, NAN], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([-INF, 4.0], [-INF, 5.0], 0.25),
        ([-INF, 4.0], [INF, 4.0], INF),
        ([INF, 4.0], [1.0, 4.0], INF),
        ([1.0, 4.0], [INF, 4.0], INF),
        ([INF], [INF], 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_difference_is_relative_to_the_largest_finite_value(a, b, expected, dtype):
    assert relative_difference(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)) == (
        expected
    )


def test_a_complex_number_has_a_length():
    one, other = torch.tensor([3 + 4j, 0]), torch.tensor([3 + 4j, 1j])
    assert relative_difference(one, other) == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_do_not_wrap_around(dtype):
    one, other = torch.tensor([0, 1], dtype=dtype), torch.tensor([1, 1], dtype=dtype)
    assert relative_difference(one, other) == relative_difference(other, one) == 1


def test_a_least_scale_stands_for_those_below_it():
    zeros, moved = torch.zeros(2), torch.tensor([0.0, 1e-3])
    assert relative_difference(zeros, moved, least=1e-6) == pytest.approx(1e3)
    assert relative_difference(zeros, zeros, least=1e-6) == 0
    assert relative_difference(torch.ones(2), torch.ones(2) + moved, least=1e-6) == (
        pytest.approx(1e-3, rel=1e-4)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 50_000)])
def test_the_gap_is_that_of_whole_arrays(dtype, shape):
    a, b = (torch.randn(shape).to(dtype) for _ in range(2))
    exact = torch.complex128 if dtype.is_complex else torch.float64
    apart = (a.to(exact) - b.to(exact)).abs()
    found = measure_gap(a, b)
    assert found.distance == pytest.approx(float(apart.square().sum()) ** 0.5)
    assert found.norm == pytest.approx(float(a.to(exact).abs().square().sum()) ** 0.5)
    assert found.largest == (float(apart.max()) if apart.numel() else 0)


def test_the_gap_to_a_number_that_is_none_is_none():
    one = torch.zeros(100_000)
    other = one.clone()
    other[7] = math.nan
    found = measure_gap(one, other)
    assert math.isnan(found.distance)
    assert math.isnan(found.largest)

"""Averages and interpolations of single tensors, against the formulas in float64."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.merging.mean import PARALLEL, lerp, slerp, weighted_mean

NARROW = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
SEEDS = st.integers(0, 10**6)
ALPHAS = st.floats(0, 1)


def drawn(seed, count=1, shape=(4, 5), dtype=torch.float32):
    """Return random tensors; their scale is random too."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** float(torch.randn((), generator=generator))
    largest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)  # beyond it is no number
    values = (scale * torch.randn(shape, generator=generator) for _ in range(count))
    return [one.clamp(-largest, largest).to(dtype) for one in values]


def wide(tensor):
    return tensor.double().numpy()


# the mean


@given(SEEDS, st.lists(st.floats(-2, 2), min_size=1, max_size=5), st.sampled_from(NARROW))
@settings(deadline=None, max_examples=60)
def test_a_weighted_mean_is_that_of_float64_up_to_rounding(seed, weights, dtype):
    weights = [*weights, 8.0]  # far from a sum of zero
    tensors = drawn(seed, len(weights), dtype=dtype)
    terms = [w * wide(t) for w, t in zip(weights, tensors, strict=True)]
    found = weighted_mean(tensors, weights)
    size = sum(map(np.abs, terms)) / abs(sum(weights))
    assert found.dtype == torch.float32
    smallest = np.finfo(np.float32).tiny  # below it float32 has fewer digits, or none
    assert (np.abs(wide(found) - sum(terms) / sum(weights)) <= 1e-6 * size + smallest).all()


def test_a_weight_of_zero_leaves_a_tensor_out():
    a, b, c = drawn(1, 3)
    assert torch.equal(weighted_mean([a, b, c], [1.0, 0.0, 1.0]), weighted_mean([a, c], [1, 1]))


def test_a_negative_weight_takes_a_tensor_away():
    a, b = torch.tensor([5.0]), torch.tensor([2.0])
    assert weighted_mean([a, b], [2.0, -1.0]).tolist() == [8.0]


def test_weights_of_a_negative_sum_turn_the_mean_round():
    a, b = torch.tensor([1.0]), torch.tensor([4.0])
    assert weighted_mean([a, b], [-2.0, 1.0]).tolist() == [-2.0]


def test_weights_are_relative_to_their_sum():
    a, b = torch.tensor([1.0]), torch.tensor([4.0])
    assert weighted_mean([a, b], [2.0, 4.0]).tolist() == [3.0]


def test_the_mean_of_many_narrow_tensors_does_not_overflow_or_lose_bits():
    tensors = [torch.tensor([60000.0], dtype=torch.float16)] * 1000
    assert weighted_mean(tensors, [1.0] * 1000).tolist() == [60000.0 - 60000.0 % 32]


def test_the_mean_of_float64_is_float64():
    a, b = torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0 + 2**-40]).double()
    b = torch.tensor([1.0 + 2**-40], dtype=torch.float64)
    found = weighted_mean([a, b], [1.0, 1.0])
    assert found.dtype == torch.float64
    assert found.tolist() == [1.0 + 2**-41]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_mean_does_not_write_into_its_tensors(dtype):
    tensors = [t.to(dtype) for t in drawn(3, 2)]
    copies = [t.clone() for t in tensors]
    weighted_mean(tensors, [1.0, 1.0])
    assert all(torch.equal(t, c) for t, c in zip(tensors, copies, strict=True))


def test_a_mean_holds_one_tensor_at_a_time():
    alive = []

    def read():
        for k in range(4):
            tensor = torch.full((3,), float(k))
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor
            assert sum(ref() is not None for ref in alive) <= 2  # the sum may be the first one

    assert weighted_mean(read(), [1.0] * 4).tolist() == [1.5] * 3


@pytest.mark.parametrize("weights", [[1.0] * 3, [1.0] * 7, [0.3, 0.7], [2.0, 1.0, -0.5]], ids=str)
def test_the_mean_of_equal_tensors_is_that_tensor(weights):
    (a,) = drawn(4, shape=(1000,))
    assert torch.equal(weighted_mean([a] * len(weights), weights), a)


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the mean of no tensors"):
        weighted_mean([], [])


def test_as_many_weights_as_tensors_are_needed():
    with pytest.raises(ValueError, match="shorter"):
        weighted_mean(drawn(1, 2), [1.0])


# the line


@given(SEEDS, ALPHAS, st.sampled_from(NARROW))
@settings(deadline=None, max_examples=60)
def test_a_point_on_the_line_is_that_of_float64_up_to_rounding(seed, alpha, dtype):
    a, b = drawn(seed, 2, dtype=dtype)
    found = lerp(a, b, alpha)
    expected = (1 - alpha) * wide(a) + alpha * wide(b)
    assert found.dtype == torch.float32
    size = (1 - alpha) * np.abs(wide(a)) + alpha * np.abs(wide(b))
    assert (np.abs(wide(found) - expected) <= 1e-6 * size + 1e-40).all()


@pytest.mark.parametrize("dtype", [*NARROW, torch.float64], ids=str)
def test_the_ends_of_the_line_are_exact(dtype):
    a, b = drawn(5, 2, dtype=dtype)
    assert torch.equal(lerp(a, b, 0.0).to(dtype).double(), a.double())
    assert torch.equal(lerp(a, b, 1.0).to(dtype).double(), b.double())


def test_the_line_goes_on_beyond_its_ends():
    assert lerp(torch.tensor([1.0]), torch.tensor([3.0]), 1.5).tolist() == [4.0]


# the arc


@given(SEEDS, ALPHAS)
@settings(deadline=None, max_examples=60)
def test_a_point_on_the_arc_between_vectors_of_one_length_has_that_length(seed, alpha):
    a, b = drawn(seed, 2)
    b = b * (a.norm() / b.norm())
    found = slerp(a, b, alpha)
    assert float(found.norm()) == pytest.approx(float(a.norm()), rel=1e-5)


def test_the_arc_turns_at_an_even_pace():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    for alpha in (0.25, 1 / 3, 0.5, 0.9):
        turned = alpha * np.pi / 2
        expected = [2 * np.cos(turned), 2 * np.sin(turned)]
        assert slerp(a, b, alpha).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_arc_of_a_matrix_is_that_of_its_values_in_a_row():
    a, b = drawn(6, 2)
    assert torch.equal(slerp(a, b, 0.3), slerp(a.flatten(), b.flatten(), 0.3).view_as(a))


@given(SEEDS, ALPHAS, st.sampled_from([1.0, 3.0, -1.0, -2.0]))
@settings(deadline=None, max_examples=60)
def test_parallel_and_opposite_vectors_are_joined_by_a_line(seed, alpha, factor):
    (a,) = drawn(seed, shape=(50,))
    assert torch.equal(slerp(a, factor * a, alpha), lerp(a, factor * a, alpha))


@pytest.mark.parametrize("swap", [False, True])
def test_a_zero_vector_is_joined_by_a_line(swap):
    a, b = drawn(7)[0], torch.zeros(4, 5)
    a, b = (b, a) if swap else (a, b)
    assert torch.equal(slerp(a, b, 0.25), lerp(a, b, 0.25))


def test_an_angle_below_the_limit_is_no_arc():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([2.0, PARALLEL], dtype=torch.float64)
    assert torch.equal(slerp(a, b, 0.5), lerp(a, b, 0.5))


def test_an_angle_above_the_limit_is_an_arc():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([2.0, 2e-3], dtype=torch.float64)
    assert not torch.equal(slerp(a, b, 0.5), lerp(a, b, 0.5))


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_the_arc_does_not_depend_on_the_scale(scale):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = slerp(a * scale, b * scale, 0.5)
    assert (found / scale).tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-5)


def test_the_arc_of_float64_is_float64():
    a, b = (t.double() for t in drawn(8, 2))
    assert slerp(a, b, 0.5).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_are_mixed_as_pairs_of_reals(dtype):
    a, b = (torch.view_as_complex(t) for t in drawn(9, 2, (3, 2), dtype.to_real()))
    x, y = torch.view_as_real(a), torch.view_as_real(b)
    for found, expected in (
        (weighted_mean([a, b], [1.0, 2.0]), weighted_mean([x, y], [1.0, 2.0])),
        (lerp(a, b, 0.3), lerp(x, y, 0.3)),
        (slerp(a, b, 0.3), slerp(x, y, 0.3)),
    ):
        assert found.dtype == dtype
        assert torch.equal(torch.view_as_real(found), expected)

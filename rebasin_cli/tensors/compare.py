"""Comparing two tensors: the same bits, or how far apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import is_floating
from rebasin_cli.tensors.ranges import IN_CACHE

_PART = 1 << 20  # elements that are compared at once: comparing takes several copies of them

# How far apart two runs of one function may be, in units of their largest value.
SAME_IN_FLOAT64 = 1e-10  # all of it in float64: nothing but the order of additions may differ
SAME_FUNCTION = 1e-5  # what float32 inside a model makes of another order of sums
# Of random parameters, which such a model's norms and softmaxes amplify; groups that are wrong
# change outputs by 1e-3 to 1.
ACCEPTED = 1e-4


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree bit by bit (NaN equals itself, -0 is not 0).

    Tensors of different dtypes are compared by value.
    """
    if a.shape != b.shape:
        return False
    if a.dtype != b.dtype:
        return measure_gap(a, b).largest == 0
    return torch.equal(_bytes(a), _bytes(b))


@dataclass(frozen=True)
class Gap:
    """How far apart two arrays a and b are: |a - b|, |a|, and the largest |a_i - b_i|."""

    distance: float
    norm: float
    largest: float


def measure_gap(a: Tensor, b: Tensor) -> Gap:
    """Return how far apart two arrays of one shape are, in float64; 0 without numbers.

    Part by part, each in a core's cache: whole, differences and squares took five copies of the
    arrays in float64, and twice the time.
    """
    x, y = a.reshape(-1), b.reshape(-1)
    sums = torch.zeros(3, dtype=torch.float64)  # of squares of a - b and of a; the largest
    for begin in range(0, len(x), IN_CACHE):
        here = in_widest(x[begin : begin + IN_CACHE])
        apart, length = (here - in_widest(y[begin : begin + IN_CACHE])).abs(), here.abs()
        sums[0] += apart.dot(apart)
        sums[1] += length.dot(length)
        sums[2] = torch.maximum(sums[2], apart.max())  # NaN, if one is
    distance, norm = sums[:2].sqrt().tolist()
    return Gap(distance, norm, float(sums[2]))


def max_value(a: Tensor) -> float:
    """Return the largest |a|; 0 for empty tensors."""
    return float(in_widest(a).abs().max()) if a.numel() else 0.0


def relative_difference(
    a: Tensor, b: Tensor, *, least: float = 0.0, widen: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Return max |a - b| / max |a|: how far apart two arrays are, in units of their largest value.

    Equal infinities are no difference and no scale. Infinite: for other shapes, or where one is
    NaN, or infinite, and the other is not the same. 0: without numbers. least: a scale below it
    counts as it; where the scale is 0 for all that, the difference is absolute. Computed in the
    dtype of the arrays, whole numbers in float64, or in what `widen` makes of a part of them.
    """
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    x, y, widen = a.reshape(-1), b.reshape(-1), widen or _comparable
    parts = (slice(begin, begin + _PART) for begin in range(0, len(x), _PART))
    found = [_gap_and_scale(widen(x[part]), widen(y[part])) for part in parts]
    gaps, scales = zip(*found, strict=True)
    if any(map(math.isnan, gaps)):
        return math.inf
    scale: float = max(*scales, least)
    return float(max(gaps)) / (scale or 1.0)


def _comparable(values: Tensor) -> Tensor:
    return values if is_floating(values.dtype) else in_widest(values)


def _gap_and_scale(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the largest |a - b|, where they are not equal, and the largest finite |a|."""
    gap = float(torch.where(a == b, 0.0, (a - b).abs()).max())
    return gap, max_value(a[a.isfinite()])


def in_widest(a: Tensor) -> Tensor:
    """Return a tensor in float64, complex128 if it is complex."""
    return a.to(torch.complex128 if a.dtype.is_complex else torch.float64)


def _bytes(a: Tensor) -> Tensor:
    return a.contiguous().reshape(-1).view(torch.uint8)

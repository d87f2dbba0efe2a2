"""Inner products of arrays of any dtype, exact enough to tell the gain of a single move."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import on_host
from rebasin_cli.tensors.ranges import IN_CACHE

AT_ONCE = 1 << 24  # elements widened at a time on a device, where every piece is a launch


def inner(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two arrays of one shape, in float64 (float32 on mps).

    Gains of single moves are told from rounding at 1e-7 of the scale (see `descent`), which a sum
    in float32 of millions of products does not resolve.
    """
    return sum(on_host(torch.dot(x, y) for x, y in wide_pieces(a, b)))


def square(a: Tensor) -> float:
    """Return <a, a>, as `inner` does."""
    return inner(a, a)


def square_distance(a: Tensor, b: Tensor) -> float:
    """Return |a - b|^2, exactly 0 for equal arrays: 0 is how an exact match is told."""
    return sum(on_host(torch.dot(d, d) for d in (x - y for x, y in wide_pieces(a, b))))


def wide_pieces(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two arrays piece by piece, flat and widened.

    Widened before they are multiplied, or products of float16 values overflow at 65504. In pieces,
    so that no model is copied in float64, and each is multiplied while it is in the cache.
    """
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    step = IN_CACHE if a.device.type == "cpu" else AT_ONCE
    x, y = a.reshape(-1), b.reshape(-1)
    if len(x) <= step:
        one = x.to(wide)
        yield one, one if a is b else y.to(wide)
        return
    for start in range(0, len(x), step):
        one = x[start : start + step].to(wide)
        yield one, one if a is b else y[start : start + step].to(wide)

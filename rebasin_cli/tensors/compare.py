"""Comparing two tensors: the same bits, or how far apart."""

from __future__ import annotations

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree bit by bit (NaN equals itself, -0 is not 0).

    Tensors of different dtypes are compared by value.
    """
    if a.shape != b.shape:
        return False
    if a.dtype != b.dtype:
        return max_difference(a, b) == 0
    return torch.equal(_bytes(a), _bytes(b))


def max_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest |a - b|; 0 for empty tensors."""
    return max_value(wide(a) - wide(b))


def max_value(a: Tensor) -> float:
    """Return the largest |a|; 0 for empty tensors."""
    return float(wide(a).abs().max()) if a.numel() else 0.0


def wide(a: Tensor) -> Tensor:
    """Return a tensor in float64, complex128 if it is complex."""
    return a.to(torch.complex128 if a.dtype.is_complex else torch.float64)


def _bytes(a: Tensor) -> Tensor:
    return a.contiguous().reshape(-1).view(torch.uint8)

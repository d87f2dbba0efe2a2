"""Complex numbers as pairs of reals, and numbers widened."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_floating(dtype: torch.dtype) -> bool:
    """Return whether numbers are floating ones, real or complex: what is averaged, and votes."""
    return dtype.is_floating_point or dtype.is_complex


def in_reals(tensor: Tensor) -> Tensor:
    """Return a complex tensor as its real numbers, one more axis of 2; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; float8 types are widened to be asked."""
    values = tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else in_reals(tensor)
    if not values.is_floating_point() or bool(values.sum().isfinite()):
        return True  # what is not finite makes no finite sum; finite values may add up to infinity
    return bool(values.isfinite().all())


def of_reals(reals: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what `in_reals` was given, if that was of this dtype; complex ones as wide as now."""
    return torch.view_as_complex(reals.contiguous()) if dtype.is_complex else reals


def on_host(numbers: Iterable[Tensor]) -> list[float]:
    """Return single numbers of one dtype and device, for all of which the CPU waits once."""
    found = [number.detach().reshape(()) for number in numbers]
    if len(found) < 2:
        return [number.item() for number in found]
    values: list[float] = torch.stack(found).tolist()
    return values


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on its device or, as Apple's GPUs know none, on the CPU."""
    return (tensor.cpu() if tensor.is_mps else tensor).to(torch.float64)

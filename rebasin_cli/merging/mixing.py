"""Averages and interpolations of single tensors, in float32 or wider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

PARALLEL = 1e-6  # radians: below it the arc and the line are the same in float32

Blend = Callable[[Tensor, Tensor, float], Tensor]


def weighted_mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum(w * tensor) / sum(w), accumulated in float64 and rounded once.

    The result is float32, or float64 if a tensor is. tensors: consumed one at a time, so that
    only the sum and one of them are in memory. Weights may be zero or negative; their sum must
    not be zero.
    """
    # in units of the largest weight, so that sums of tiny or huge weights stay in range
    largest = max(map(abs, weights), default=1.0)
    shares = [weight / largest for weight in weights]
    total: Tensor | None = None
    dtype = torch.float32
    for tensor, share in zip(tensors, shares, strict=True):
        dtype = torch.promote_types(dtype, _wide_dtype(tensor))
        term = tensor.to(torch.float64) * share
        total = term if total is None else total.add_(term)
    if total is None:
        raise ValueError("the mean of no tensors")
    return (total / sum(shares)).to(dtype)


def lerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) a + alpha b; exactly a at 0 and exactly b at 1."""
    return (1 - alpha) * _wide(a) + alpha * _wide(b)


def slerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return the point on the arc from a to b, each tensor seen as one vector.

    Directions closer than PARALLEL, or a zero vector, have no arc worth the name: lerp.
    Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3.
    """
    x, y = _wide(a), _wide(b)
    scale = x.double().norm() * y.double().norm()
    cosine = (x.double() * y.double()).sum() / scale if scale > 0 else torch.tensor(1.0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle) < PARALLEL:
        return lerp(a, b, alpha)
    left = torch.sin((1 - alpha) * angle) / torch.sin(angle)
    right = torch.sin(alpha * angle) / torch.sin(angle)
    return float(left) * x + float(right) * y


MODES: Mapping[str, Blend] = {"linear": lerp, "slerp": slerp}


def blend(mode: str, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return one tensor between two by the named mode; tensors that are not real stay as in a."""
    if not a.dtype.is_floating_point or alpha == 0:
        return a
    return MODES[mode](a, b, alpha) if alpha != 1 else b


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_dtype(tensor))


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32

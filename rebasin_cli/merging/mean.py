"""Averages and interpolations of single tensors, in float32 or wider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import cos, sin

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import in_reals, of_reals
from rebasin_cli.tensors.ranges import IN_CACHE

PARALLEL = 1e-6  # radians: below it the arc and the line are the same in float32

Blend = Callable[[Tensor, Tensor, float], Tensor]


def weighted_mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum(w * tensor) / sum(w), accumulated in float64 and rounded once.

    The result is float32, or float64 if a tensor is; complex ones are pairs of these. tensors:
    consumed one at a time, so that only the sum and one of them are in memory. Weights may be
    zero or negative; their sum must not be zero.
    """
    # in units of the largest weight, so that sums of tiny or huge weights stay in range
    largest = max(map(abs, weights), default=1.0)
    shares = [weight / largest for weight in weights]
    total: Tensor | None = None
    dtype = torch.float32
    for tensor, share in zip(tensors, shares, strict=True):
        dtype = torch.promote_types(dtype, wide_dtype(tensor.dtype))
        reals = in_reals(tensor)
        if total is None:
            total = torch.full(reals.shape, -0.0, dtype=torch.float64)  # -0.0 + x is x
        flat, sums = reals.reshape(-1), total.view(-1)
        for begin in range(0, len(flat), IN_CACHE):
            part = flat[begin : begin + IN_CACHE].to(torch.float64)
            sums[begin : begin + IN_CACHE].add_(part if share == 1 else part * share)
    if total is None:
        raise ValueError("the mean of no tensors")
    return of_reals(total.div_(sum(shares)), dtype).to(dtype)


def lerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) a + alpha b; exactly a at 0 and exactly b at 1."""
    x, y = (1 - alpha) * _wide(a), alpha * _wide(b)
    return x.add_(y) if x.dtype == y.dtype else x + y


def slerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return the point on the arc from a to b, each tensor seen as one vector of reals.

    (sin((1 - t) w) a + sin(t w) b) / sin(w), with w the angle between them and t = alpha.
    Directions closer than PARALLEL, or a zero vector, have no arc worth the name: lerp.
    Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3.
    """
    x, y = in_reals(_wide(a)), in_reals(_wide(b))
    scale = x.double().norm() * y.double().norm()
    cosine = (x.double() * y.double()).sum() / scale if scale > 0 else torch.tensor(1.0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle) < PARALLEL:
        return lerp(a, b, alpha)
    left = torch.sin((1 - alpha) * angle) / torch.sin(angle)
    right = torch.sin(alpha * angle) / torch.sin(angle)
    return of_reals(float(left) * x + float(right) * y, a.dtype)


MODES: Mapping[str, Blend] = {"linear": lerp, "slerp": slerp}
# What these make of a range of two tensors is that range of what they make of the whole.
BY_ELEMENT = frozenset({"linear"})
# Bytes that a number of two whole tensors takes beside them: one share in float32, the other being
# what is returned; or both in float64, and their product.
BLENDING: Mapping[str, int] = {"linear": 4, "slerp": 24}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(wide_dtype(tensor.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that tensors of another are computed in: float32 or wider, or complex."""
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    return torch.float64 if dtype == torch.float64 else torch.float32


STEP = 1e-12  # radians: where the steps of the mean end; each is a few products of N numbers
ROUNDS = 200  # of steps at most; they shrink fast unless vectors point all over the sphere


def spherical_weights(products: Tensor, weights: Sequence[float]) -> list[float] | None:
    """Return factors of some vectors whose sum, with these factors, is their spherical mean.

    The spherical mean is the Karcher mean of the directions, times the weighted mean of the norms:
    x <- exp_x(sum w log_x(y)) over the unit vectors y, from their mean, until it rests. x always is
    a sum of the y, so inner products are all that is needed. Two vectors of one length give the
    middle of `slerp`. None if one of them is zero, or if their mean is: there is no direction then.
    Source: Karcher 1977, "Riemannian center of mass and mollifier smoothing", section 1.
    products: the inner products (n, n). weights: not negative.
    """
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    norms = products.diagonal().sqrt()
    if not (norms > 0).all():
        return None
    place = _rest(products / norms.outer(norms), shares)
    if place is None:
        return None
    factors: list[float] = (place * (shares @ norms) / norms).tolist()
    return factors


def _rest(cosines: Tensor, shares: Tensor) -> Tensor | None:
    """Return the mean as factors of the unit vectors; None if nothing says where it lies."""
    place = shares
    for _ in range(ROUNDS):
        length = float(place @ cosines @ place) ** 0.5
        if not length > PARALLEL:
            return None
        place = place / length
        near = (cosines @ place).clamp(-1, 1)
        angles = torch.arccos(near)
        if (torch.pi - angles < PARALLEL).any():
            return None
        sines = torch.sin(angles)
        stretch = torch.where(sines < PARALLEL, torch.ones_like(sines), angles / sines)
        pull = shares * stretch
        step = pull - (pull @ near) * place
        far = max(float(step @ cosines @ step), 0.0) ** 0.5
        place = cos(far) * place + (sin(far) / far if far else 1.0) * step
        if far < STEP:
            break
    return place

"""The mean of several tensors on the sphere of their directions."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, sin

import torch
from torch import Tensor

from rebasin_cli.merging.mean import PARALLEL

STEP = 1e-12  # radians: where the steps of the mean end; each is a few products of N numbers
ROUNDS = 200  # of steps at most; they shrink fast unless vectors point all over the sphere


def spherical_weights(products: Tensor, weights: Sequence[float]) -> list[float] | None:
    """Return what the sum of some vectors is weighted by that is their spherical mean.

    That is the Karcher mean of their directions, as long as their mean length: x <- exp_x(sum w
    log_x(y)) over unit vectors y, from their mean, until it rests; times the mean of the norms by
    weight. x is always a sum of the y, so all of it is done with their products, and two vectors of
    one length give the middle of `slerp`. Where one of them is zero, or their mean is, there is no
    direction: None.
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

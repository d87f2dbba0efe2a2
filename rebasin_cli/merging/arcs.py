"""The mean of several tensors on the sphere of their directions."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, sin

import torch
from torch import Tensor

from rebasin_cli.merging.mean import PARALLEL, weighted_mean
from rebasin_cli.tensors.numbers import in_reals

STEP = 1e-12  # radians: where the steps of the mean end; each is a few products of N numbers
ROUNDS = 200  # of steps at most; they shrink fast unless vectors point all over the sphere
CHUNK = 2**18  # numbers of each tensor in float64 at a time


def spherical_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the Karcher mean of the directions of tensors, as long as their mean length.

    Each tensor counts as one vector of reals. x <- exp_x(sum w log_x(y)) over unit vectors y, from
    their mean, until it rests; times the mean of the norms by weight. x is always a sum of the y,
    so all of it is done with their products, and two tensors of one length give the middle of
    `slerp`. Where one of them is zero, or their mean is, there is no direction: `weighted_mean`.
    Source: Karcher 1977, "Riemannian center of mass and mollifier smoothing", section 1.
    weights: not negative.
    """
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    products = _products(tensors)
    norms = products.diagonal().sqrt()
    if not (norms > 0).all():
        return weighted_mean(tensors, weights)
    cosines = products / norms.outer(norms)
    place = _rest(cosines, shares)
    if place is None:
        return weighted_mean(tensors, weights)
    factors = place * (shares @ norms) / norms
    # weighted_mean divides by the sum of what it is given
    return weighted_mean(tensors, factors.tolist()) * float(factors.sum())


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


def _products(tensors: Sequence[Tensor]) -> Tensor:
    """Return the inner products of all pairs, summed in float64."""
    flat = [in_reals(tensor).flatten() for tensor in tensors]
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for pieces in zip(*(torch.split(one, CHUNK) for one in flat), strict=True):
        rows = torch.stack([piece.to(torch.float64) for piece in pieces])
        total += rows @ rows.T
    return total

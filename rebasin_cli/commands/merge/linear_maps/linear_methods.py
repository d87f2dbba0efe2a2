"""Canonical correlation: the linear map that brings the units of one model next to another's.

Source: Horoi et al. 2024, "Harmony in Diversity: Merging Neural Networks with Canonical Correlation
Analysis". The regularisation is relative here, so that it means the same in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rebasin_cli.commands.merge.linear_maps.linear_map import LinearMap, identity_map
from rebasin_cli.commands.merge.linear_maps.zipit import correlations, zip_units

GAMMA = 1.0  # of the mean variance, added to each; of 1e-3 to 10 the best on two real networks


TIE = 1e-6  # prefers unit k for unit k where neither says anything; correlations go up to 1


def cca_maps(covariance: Tensor, *, gamma: float = GAMMA) -> tuple[LinearMap, LinearMap]:
    """Return the maps of two models: the first stays, the second comes into its frame.

    covariance: (2 n, 2 n), of the units of both, one model after the other. With
    X = C_aa + gamma mean(diag C_aa), Y likewise and U S V' = svd(X^-1/2 C_ab Y^-1/2), new units
    are X^1/2 U V' Y^-1/2 times the old.
    """
    size = len(covariance) // 2
    own_a, own_b = covariance[:size, :size], covariance[size:, size:]
    if not (own_a.diagonal().mean() > 0 and own_b.diagonal().mean() > 0):
        return identity_map(size), identity_map(size)
    (root_a, inverse_a), (root_b, inverse_b) = (_roots(own, gamma) for own in (own_a, own_b))
    whitened = inverse_a @ covariance[:size, size:] @ inverse_b
    u, _, v = torch.linalg.svd(whitened + TIE * torch.eye(size).to(whitened))
    turn = u @ v
    there = root_a @ turn @ inverse_b
    back = root_b @ turn.T @ inverse_a
    return identity_map(size), LinearMap(there, back)


def _roots(covariance: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the root of a regularised covariance, and the inverse of that root."""
    values, vectors = torch.linalg.eigh(covariance)
    # rounding can make values of what never varies negative
    scale = (values.clamp(min=0) + gamma * covariance.diagonal().mean()).sqrt()
    floor = scale.max() * torch.finfo(scale.dtype).eps
    scale = scale.clamp(min=float(floor))
    return vectors * scale @ vectors.T, vectors / scale @ vectors.T


Linear = Callable[[Tensor, int], tuple[LinearMap, ...]]


"""(covariance of the stacked units (N n, N n), N) -> the map of each model."""


def _zipit(covariance: Tensor, models: int) -> tuple[LinearMap, ...]:
    return zip_units(correlations(covariance), models).maps


def _cca(covariance: Tensor, models: int) -> tuple[LinearMap, ...]:
    if models != 2:
        raise ValueError(f"canonical correlation is of two models, not of {models}")
    return cca_maps(covariance)


LINEAR: Mapping[str, Linear] = {"zipit": _zipit, "cca": _cca}

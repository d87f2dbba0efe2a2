"""The ways to find linear maps of hidden units from what the units of all models do together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rebasin_cli.merging.cca import cca_maps
from rebasin_cli.merging.maps import LinearMap
from rebasin_cli.merging.zipit import correlations, zip_units

Linear = Callable[[Tensor, int], tuple[LinearMap, ...]]
"""(covariance of the stacked units (N n, N n), N) -> the map of each model."""


def _zipit(covariance: Tensor, models: int) -> tuple[LinearMap, ...]:
    return zip_units(correlations(covariance), models).maps


def _cca(covariance: Tensor, models: int) -> tuple[LinearMap, ...]:
    if models != 2:
        raise ValueError(f"canonical correlation is of two models, not of {models}")
    return cca_maps(covariance)


LINEAR: Mapping[str, Linear] = {"zipit": _zipit, "cca": _cca}

"""What the units of two models do on the same samples, in one place of the network or in many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from rebasin_cli.activations.moments import CrossMoments, Moments, cross_moments, moments

UnitDims = tuple[tuple[str, int], ...]
AT_ONCE = 1 << 18  # elements of one model that are widened at a time: they stay in the cache
ROWS = 1  # for each unit, at the least: joining costs a tenth of the products of so many


@dataclass(frozen=True)
class UnitMoments:
    """What is known of the units at one place of a network, in one model or in two.

    dims: the groups whose product the units are, outer first, with their sizes. place: where that
    is, in words. models: the moments in each. products: of two models, as of `CrossMoments`.
    """

    dims: UnitDims
    place: str
    models: tuple[Moments, ...]
    products: Tensor | None = None

    @property
    def count(self) -> int:
        return self.models[0].count

    @property
    def cross(self) -> CrossMoments:
        """What is known of both models together. Raises ValueError if there is one only."""
        if self.products is None:
            raise ValueError(f"{self.place} was seen in one model only")
        return CrossMoments(self.models[0], self.models[1], self.products)

    @property
    def swapped(self) -> UnitMoments:
        """The same with the other model first."""
        products = None if self.products is None else self.products.T
        return replace(self, models=self.models[::-1], products=products)

    def joined(self, other: UnitMoments) -> UnitMoments:
        """Return the moments over the samples of both."""
        if self.products is None:
            return replace(self, models=(self.models[0].joined(other.models[0]),))
        both = self.cross.joined(other.cross)
        return replace(self, models=(both.a, both.b), products=both.products)


def unit_moments(dims: UnitDims, place: str, samples: Sequence[Tensor]) -> UnitMoments:
    """Return the moments of the units of one model, or of two on the same samples.

    samples: (count, units) for each model.
    """
    units = max(1, samples[0].shape[1])
    rows = max(AT_ONCE // units, ROWS * units)
    parts = (
        _of_part(dims, place, part)
        for part in zip(*(torch.split(values, rows) for values in samples), strict=True)
    )
    found = next(parts)
    for part in parts:
        found = found.joined(part)
    return found


def _of_part(dims: UnitDims, place: str, samples: Sequence[Tensor]) -> UnitMoments:
    if len(samples) == 1:
        return UnitMoments(dims, place, (moments(samples[0]),))
    both = cross_moments(samples[0], samples[1])
    return UnitMoments(dims, place, (both.a, both.b), both.products)


SimilarityMeasure = Callable[[CrossMoments], Tensor]


def inner(found: CrossMoments) -> Tensor:
    """Return the mean products, over the length of the two models' activations: a cosine in all.

    Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), section 3.1.
    """
    lengths = (m.mean.square().sum() + m.variance.sum() for m in (found.a, found.b))
    return _over(found.inner, *lengths)


def covariance(found: CrossMoments) -> Tensor:
    """Return the covariances, over the square root of the product of the total variances."""
    return _over(found.covariance, found.a.variance.sum(), found.b.variance.sum())


def correlation(found: CrossMoments) -> Tensor:
    """Return Pearson's correlations, over the number of units.

    Source: Jordan et al. 2023 (REPAIR, arXiv 2211.08403), section 2.
    """
    return found.correlation / len(found.products)


def absolute(found: CrossMoments) -> Tensor:
    """Return the correlations without their signs: units that do the opposite are partners too."""
    return correlation(found).abs()


SIMILARITIES: Mapping[str, SimilarityMeasure] = {
    "inner": inner,
    "covariance": covariance,
    "correlation": correlation,
    "absolute": absolute,
}


def _over(values: Tensor, one: Tensor, other: Tensor) -> Tensor:
    scale = sqrt(float(one) * float(other))
    return values / scale if scale else torch.zeros_like(values)

"""Means, variances and products of units over samples, batch by batch, in float64.

Batches are joined exactly (Chan, Golub, LeVeque 1983, "Algorithms for computing the sample
variance", equation 2.1), so that ten batches of a hundred samples give what one of a thousand does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import in_float64


@dataclass(frozen=True)
class Moments:
    """What is known of n units from some samples; float64, on the device of the samples.

    count: of samples. mean: (n,). scatter: (n,) sums of squared distances from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance of each unit, over all samples (not count - 1)."""
        return self.scatter / self.count

    @property
    def unbiased(self) -> Tensor:
        """The variance estimated for samples not seen, as BatchNorm stores it."""
        return self.scatter / max(self.count - 1, 1)

    @property
    def deviation(self) -> Tensor:
        return self.variance.sqrt()

    def joined(self, other: Moments) -> Moments:
        """Return the moments over the samples of both."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = step.square() * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)


@dataclass(frozen=True)
class CrossMoments:
    """What is known of the units of two models from the same samples.

    products: (n of a, n of b) sums of products of distances from the means.
    """

    a: Moments
    b: Moments
    products: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.products / self.a.count

    @property
    def inner(self) -> Tensor:
        """The mean of the products themselves, no mean taken off: (n, n)."""
        return self.covariance + torch.outer(self.a.mean, self.b.mean)

    @property
    def correlation(self) -> Tensor:
        """Pearson's correlation, 0 where a unit never changes."""
        scale = torch.outer(self.a.deviation, self.b.deviation)
        return torch.where(scale > 0, self.covariance / scale, 0.0)

    def joined(self, other: CrossMoments) -> CrossMoments:
        """Return the moments over the samples of both."""
        count = self.a.count + other.a.count
        steps = other.a.mean - self.a.mean, other.b.mean - self.b.mean
        between = torch.outer(*steps) * (self.a.count * other.a.count / count)
        products = self.products + other.products + between
        return CrossMoments(self.a.joined(other.a), self.b.joined(other.b), products)


def moments(samples: Tensor) -> Moments:
    """Return the moments of samples of shape (count, n)."""
    mean, rest = _mean_and_deviations(samples)
    return Moments(len(samples), mean, rest.square().sum(0))


def cross_moments(a: Tensor, b: Tensor) -> CrossMoments:
    """Return the moments of two models' samples: (count, n of a) and (count, n of b)."""
    (mean_a, rest_a), (mean_b, rest_b) = _mean_and_deviations(a), _mean_and_deviations(b)
    return CrossMoments(
        Moments(len(a), mean_a, rest_a.square().sum(0)),
        Moments(len(b), mean_b, rest_b.square().sum(0)),
        rest_a.T @ rest_b,
    )


def _mean_and_deviations(samples: Tensor) -> tuple[Tensor, Tensor]:
    wide = in_float64(samples)
    mean = wide.mean(0)
    return mean, wide - mean

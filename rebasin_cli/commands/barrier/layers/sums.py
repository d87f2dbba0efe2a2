"""What is gathered of one layer of two models and their midpoint, and the figures drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.activations.moments import CrossMoments, Moments, cross_moments, moments
from rebasin_cli.tensors.numbers import in_float64

WIDEST = 4096  # units; beyond it the products that CKA needs take half a gigabyte a layer
SAMPLES = 1 << 15  # of a batch that go into the products: images have a sample for every place

Products = tuple[CrossMoments, CrossMoments, CrossMoments]


@dataclass(frozen=True)
class SampledOutputs:
    """The samples (count, units) of A, B and the midpoint, and what a zero input gives, if any."""

    a: Tensor
    b: Tensor
    midpoint: Tensor
    zeros: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class LayerSums:
    """Moments over samples. both: of the sums a + b of matched units.

    products: of A with A, B with B and A with B, of up to SAMPLES of each batch; None for too many
    units. responses: (3,) sums of
    |f(x) - f(0)|^2 of A, B and the midpoint; None where there is no zero input.
    """

    a: Moments
    b: Moments
    midpoint: Moments
    both: Moments
    products: Products | None
    responses: Tensor | None

    def joined(self, other: LayerSums) -> LayerSums:
        """Return the sums over the samples of both."""
        products = None
        if self.products is not None and other.products is not None:
            (aa, bb, ab), (cc, dd, cd) = self.products, other.products
            products = aa.joined(cc), bb.joined(dd), ab.joined(cd)
        responses = None
        if self.responses is not None and other.responses is not None:
            responses = self.responses + other.responses
        return LayerSums(
            self.a.joined(other.a),
            self.b.joined(other.b),
            self.midpoint.joined(other.midpoint),
            self.both.joined(other.both),
            products,
            responses,
        )

    @property
    def variance(self) -> float | None:
        """The variance of the midpoint over the mean of its parents', all units together."""
        a, b, midpoint = (float(m.scatter.sum()) for m in (self.a, self.b, self.midpoint))
        return 2 * midpoint / (a + b) if a + b > 0 else None

    @property
    def response(self) -> float | None:
        """The root of the midpoint's mean response over the mean of the parents' roots."""
        if self.responses is None:
            return None
        a, b, midpoint = self.responses.sqrt().tolist()
        return 2 * midpoint / (a + b) if a + b > 0 else None

    @property
    def similarity(self) -> float | None:
        """Linear CKA of A and B: |Y'X|^2 / (|X'X| |Y'Y|) of centred samples X and Y.

        Source: Kornblith et al. 2019, "Similarity of neural network representations revisited".
        """
        if self.products is None:
            return None
        own_a, own_b, across = (float(p.products.norm()) for p in self.products)
        return across**2 / (own_a * own_b) if own_a * own_b > 0 else None

    @property
    def correlation(self) -> float | None:
        """The mean correlation of unit k of A with unit k of B, where both vary."""
        covariance = (self.both.scatter - self.a.scatter - self.b.scatter) / 2
        scale = (self.a.scatter * self.b.scatter).sqrt()
        alive = scale > 0
        return float((covariance[alive] / scale[alive]).mean()) if alive.any() else None


def layer_sums(seen: SampledOutputs) -> LayerSums:
    """Return the sums over the samples of one batch."""
    a, b = in_float64(seen.a), in_float64(seen.b)
    return LayerSums(
        moments(a),
        moments(b),
        moments(seen.midpoint),
        moments(a + b),
        _products(_some(a), _some(b)) if a.shape[1] <= WIDEST else None,
        _responses(seen),
    )


def _some(samples: Tensor) -> Tensor:
    """Return samples, or as many of them as count, the same for all models."""
    if len(samples) <= SAMPLES:
        return samples
    # steps of one length would take the same columns of every image
    chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    return samples[chosen.to(samples.device)]


def _products(a: Tensor, b: Tensor) -> Products:
    return cross_moments(a, a), cross_moments(b, b), cross_moments(a, b)


def _responses(seen: SampledOutputs) -> Tensor | None:
    if seen.zeros is None:
        return None
    pairs = zip((seen.a, seen.b, seen.midpoint), seen.zeros, strict=True)
    return torch.stack([(in_float64(x) - in_float64(zero)).square().sum() for x, zero in pairs])

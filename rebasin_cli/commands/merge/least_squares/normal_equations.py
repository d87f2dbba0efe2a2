"""The weights of one layer by least squares, from sums over all samples.

Source: Nasery et al. 2024 (PLeaS, arXiv 2407.02447), section 3: W = argmin sum |W z - y|^2, z what
the merged layer reads if those before it are right, y what it should return. There it is approached
by gradient steps; here it is solved, which takes second moments alone: Z'Z and Y'Z.

Departure: what the samples leave open stays as it is in a weight W0, the average. With
D = W - W0 and the ridge r = RIDGE trace(Z'Z) / d the minimum of |W Z' - Y'|^2 + r |D|^2 is
D (Z'Z + r) = Y'Z - W0 Z'Z. A weight that is right already stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-4


@dataclass(frozen=True)
class NormalSums:
    """Sums over the samples of a layer of g groups, d inputs and o outputs each; float64.

    inner: (g, d, d), Z'Z. cross: (g, o, d), Y'Z. total, square: (g, o), of the outputs, and of
    their squares.
    """

    count: int
    inner: Tensor
    cross: Tensor
    total: Tensor
    square: Tensor

    def joined(self, other: NormalSums) -> NormalSums:
        """Return the sums over the samples of both."""
        return NormalSums(
            self.count + other.count,
            self.inner + other.inner,
            self.cross + other.cross,
            self.total + other.total,
            self.square + other.square,
        )

    def cpu(self) -> NormalSums:
        """Return the sums in the memory of the CPU."""
        held = (self.inner, self.cross, self.total, self.square)
        return NormalSums(self.count, *(values.cpu() for values in held))

    @property
    def finite(self) -> bool:
        """Whether no input and no output was NaN or infinite."""
        return bool(self.inner.isfinite().all() and self.square.isfinite().all())


@dataclass(frozen=True)
class OutputPart:
    """Some outputs of a layer, and the inputs that they may read: indices."""

    outputs: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class LayerFit:
    """How well a layer does: mean squared error of its outputs, over their variance."""

    samples: int
    before: float
    after: float


def layer_sums(inputs: Tensor, outputs: Tensor) -> NormalSums:
    """Return the sums over samples of shape (g, samples, d) and (g, samples, o)."""
    cross = outputs.mT @ inputs
    inner, square = inputs.mT @ inputs, outputs.square().sum(1)
    return NormalSums(inputs.shape[1], inner, cross, outputs.sum(1), square)


def solved_weights(
    sums: NormalSums, average: Tensor, parts: Sequence[OutputPart], *, ridge: float = RIDGE
) -> Tensor:
    """Return the weights (g, o, d) of the least error.

    average: where the samples say nothing. parts: weights of what a part may not read stay.
    """
    result = average.clone()
    for part in parts:
        inner = _taken(sums.inner, part.inputs, part.inputs)
        rows = _taken(average, part.outputs, part.inputs)
        cross = _taken(sums.cross, part.outputs, part.inputs)
        found = rows + _step(inner, cross - rows @ inner, ridge)
        result[:, part.outputs[:, None], part.inputs] = found
    return result


def _taken(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return some rows and columns, in order; without a copy if these are all."""
    for axis, chosen in ((1, rows), (2, columns)):
        if len(chosen) < matrices.shape[axis]:
            matrices = matrices.index_select(axis, chosen)
    return matrices


def _step(inner: Tensor, missing: Tensor, ridge: float) -> Tensor:
    """Return D of D (Z'Z + r) = missing; of a group that reads nothing but zeros, 0."""
    scale = inner.diagonal(dim1=1, dim2=2).mean(1)
    alive = scale > 0
    safe = torch.where(alive, scale, 1.0)[:, None, None]
    scaled = inner / safe
    scaled.diagonal(dim1=1, dim2=2).add_(ridge)
    factor = torch.linalg.cholesky(scaled)
    step = torch.cholesky_solve((missing / safe).mT, factor).mT
    return torch.where(alive[:, None, None], step, 0.0)


def error_of(sums: NormalSums, weights: Tensor) -> float:
    """Return the mean squared error of all outputs, over their variance; 0 if they never vary."""
    cross = (weights * sums.cross).sum()
    error = sums.square.sum() - 2 * cross + (weights @ sums.inner * weights).sum()
    variance = (sums.square - sums.total.square() / sums.count).sum()
    return max(0.0, float(error / variance)) if variance > 0 else 0.0

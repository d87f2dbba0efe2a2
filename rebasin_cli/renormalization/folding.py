"""Corrections of a layer's output, written into its own weight and bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebasin_cli.activations.moments import Moments
from rebasin_cli.network.correctable_layers import Correction
from rebasin_cli.tensors.numbers import in_float64


def fold_correction(module: nn.Module, correction: Correction) -> None:
    """Make a linear or convolutional layer return what it does now, corrected: in place.

    Computed in float64 and rounded once to the layer's dtype. A layer without a bias takes the
    scale alone.
    """
    assert isinstance(module, nn.Linear | _ConvNd), "the layers that can be corrected"
    with torch.no_grad():
        scale = correction.scale.to(in_float64(module.weight).device)
        module.weight.copy_(in_float64(module.weight) * _beside(scale, module))
        if module.bias is not None:
            shift = correction.shift.to(scale.device)
            module.bias.copy_(in_float64(module.bias) * scale + shift)


def refill(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Write running statistics into a norm; how many batches it has seen stays as it is."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def reset(norm: _BatchNorm, found: Moments) -> None:
    """Write the statistics of its inputs into a norm, the variance unbiased as torch stores it."""
    refill(norm, found.mean, found.unbiased)


def _beside(scale: Tensor, module: nn.Linear | _ConvNd) -> Tensor:
    """Return (n,) factors in the shape in which they multiply a layer's weight.

    A transposed convolution stores (in, out / groups, ...): the inputs of group g write the outputs
    of group g.
    """
    weight = module.weight
    if not isinstance(module, _ConvTransposeNd):
        return scale.view(-1, *[1] * (weight.dim() - 1))
    inside = scale.view(module.groups, 1, weight.shape[1])
    rows = weight.shape[0] // module.groups
    flat = inside.expand(module.groups, rows, weight.shape[1]).reshape(weight.shape[:2])
    return flat.view(*weight.shape[:2], *[1] * (weight.dim() - 2))

"""Buffers whose slices are all equal, made to differ: otherwise moving them would show nothing."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import nn

from rebasin_cli.tracer.axes.analysis import uniform_axes

NOISE = 0.1  # at most, of what a slice is scaled and shifted by; variances stay positive


def vary_uniform_buffers(model: nn.Module, names: Container[str]) -> None:
    """Scale and shift each slice along the axes where some buffers are uniform."""
    generator = torch.Generator().manual_seed(0)
    for name, values in model.named_buffers():
        if name in names and values.is_floating_point():
            uniform = uniform_axes(values, values.dim())
            shape = [n if same else 1 for n, same in zip(values.shape, uniform, strict=True)]
            noise = torch.rand(shape, generator=generator).to(values) * NOISE
            values.mul_(1 + noise).add_(noise)

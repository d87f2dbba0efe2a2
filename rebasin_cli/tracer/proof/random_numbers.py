"""Random numbers in a model, so that no error hides: in parameters, in buffers, in sums.

Fresh models hide errors: zero biases, unit norms and buffers whose slices are all equal stay the
same when they are permuted wrongly.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn

from rebasin_cli.tensors import RUNNING_STATISTICS
from rebasin_cli.tensors.numbers import in_reals, is_floating
from rebasin_cli.tracer.axes.analysis import uniform_axes

KERNEL = 16  # a last axis of three that is longer is no kernel: a stack of matrices
NOISE = 0.1  # of what is added to parameters that do not vary
BUFFER_NOISE = 0.1  # at most, of what a slice is scaled and shifted by; variances stay positive
SENSIBLE = 1e6  # more than any parameter varies that somebody set: the memory held something else


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give all floating parameters and statistics values that hide no error.

    Fresh models have zero biases, unit norms and residual branches scaled by 1e-6: with those a
    wrong permutation changes nothing. Noise is added to everything that hardly varies; what
    varies enough is left alone, so that doing it again changes nothing. Parameters that a class
    leaves to its checkpoints are whatever their memory held, and NaN at times.
    """
    statistics = {n for n, _ in model.named_buffers() if n.endswith(RUNNING_STATISTICS)}
    for name, tensor in model_tensors(model).items():
        if is_floating(tensor.dtype) and (isinstance(tensor, nn.Parameter) or name in statistics):
            positive = name.endswith("running_var")
            _vary(in_reals(tensor), _scale(tensor), generator, positive=positive)


def _vary(tensor: Tensor, scale: float, generator: torch.Generator, *, positive: bool) -> None:
    """Add noise to a tensor; to a matrix so much that what it computes is of the scale of inputs.

    With the usual 0.02 of a fresh transformer, attention is nearly uniform whatever it looks at.
    """
    spread = float(tensor.std()) if tensor.numel() > 1 else float(tensor.abs().sum())
    if not spread < SENSIBLE:
        tensor.zero_()
        spread = 0.0
    if spread <= scale / 2:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        tensor.add_((noise.abs() if positive else noise).to(tensor.dtype), alpha=scale)


def _scale(tensor: Tensor) -> float:
    if tensor.dim() < 2 or not tensor.numel():
        return NOISE
    stack = tensor.dim() == 3 and tensor.shape[-1] > KERNEL
    return float((tensor.shape[-1] if stack else tensor.numel() / tensor.shape[0]) ** -0.5)


def vary_uniform_buffers(model: nn.Module, names: Container[str]) -> None:
    """Scale and shift each slice of some buffers, along the axes where all slices are equal."""
    generator = torch.Generator().manual_seed(0)
    for name, values in model.named_buffers():
        if name in names and values.is_floating_point():
            uniform = uniform_axes(values, values.dim())
            shape = [n if same else 1 for n, same in zip(values.shape, uniform, strict=True)]
            noise = torch.rand(shape, generator=generator).to(values) * BUFFER_NOISE
            values.mul_(1 + noise).add_(noise)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by state-dict name; writing to them changes the model."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        return {n: t for n, t in state.items() if isinstance(t, Tensor)}


def random_sum(outputs: Iterable[Tensor]) -> Tensor:
    """Return a sum of all finite numbers with random weights, one number that has a gradient."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for values in map(in_reals, outputs):
        if values.is_floating_point():
            weights = torch.randn(values.shape, generator=generator).to(values.dtype)
            total = total + (weights * values)[values.isfinite()].sum()
    return total


def noisy_values(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return values with noise larger than they are; of whole numbers and masks, the negation."""
    if not is_floating(values.dtype):
        return (values == 0).to(values.dtype)
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32)
    # In place: touching fresh memory takes longer than the sums.
    scale = torch.linalg.vector_norm(values, 1) / max(values.numel(), 1)
    return noise.to(values.dtype).mul_(scale + 1).add_(values)

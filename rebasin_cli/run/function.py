"""Whether two checkpoints compute the same: both are run in the model on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.models import Example
from rebasin_cli.models.attempt import quiet
from rebasin_cli.models.called import cause
from rebasin_cli.models.weights import fill
from rebasin_cli.plan.outcome import Agreement
from rebasin_cli.plan.traced import Fitted
from rebasin_cli.plan.tracing import subject_for
from rebasin_cli.tensors import TensorSource, dtype_name
from rebasin_cli.trace.capture import named_outputs
from rebasin_cli.trace.record import mapped
from rebasin_cli.trace.recorder import primitive_kernels

Outputs = Sequence[Mapping[str, Tensor]]


def compare_functions(fitted: Fitted, one: TensorSource, other: TensorSource) -> Agreement:
    """Return how far apart the outputs of two checkpoints are on the model's random inputs.

    In float64, or in float32 where the model computes no numbers in that. What a checkpoint lacks,
    such as a head, has the same random values for both. Raises UsageError if the model does not
    run, MachineError if it does not fit into memory.
    """
    subject = subject_for(fitted.tracing)
    try:
        with quiet():
            model = subject.build()
            examples = subject.examples(model)
            for dtype in (torch.float64, torch.float32):
                model.to(dtype)
                runs = [_run(model, source, fitted, examples) for source in (one, other)]
                if all(map(_finite, runs)):
                    break
    except MemoryError as error:
        raise MachineError(f"{subject.name} does not fit into memory") from error
    except RuntimeError as error:
        what = f"{subject.name} does not run with the weights of the checkpoints"
        raise UsageError(what, detail=cause(error)) from error
    return Agreement(_apart(*runs), len(examples), dtype_name(dtype))


def _run(
    model: nn.Module, source: TensorSource, fitted: Fitted, examples: Sequence[Example]
) -> Outputs:
    fill(model, source, fitted.layout.windows)
    dtype = next((p.dtype for p in model.parameters()), torch.float64)
    return [_called(model, example, dtype, fitted.known.trace.outputs) for example in examples]


def _called(
    model: nn.Module, example: Example, dtype: torch.dtype, names: Sequence[str]
) -> dict[str, Tensor]:
    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    args: Any = mapped(example.args, Tensor, cast)
    kwargs: Any = mapped(dict(example.kwargs), Tensor, cast)
    torch.manual_seed(0)
    with primitive_kernels():
        found = named_outputs(model(*args, **kwargs))
    return {name: found[name].clone() for name in names if name in found}


def _finite(outputs: Outputs) -> bool:
    return all(bool(torch.isfinite(value).all()) for run in outputs for value in run.values())


def _apart(one: Outputs, other: Outputs) -> float:
    pairs = [(run[n], again[n]) for run, again in zip(one, other, strict=True) for n in run]
    return max((_relative(a, b) for a, b in pairs), default=math.inf)


def _relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two outputs, over the largest value of the first."""
    if a.shape != b.shape or not a.numel():
        return 0.0 if a.shape == b.shape else math.inf
    difference = float((a - b).abs().max())
    scale = float(a.abs().max())
    return math.inf if math.isnan(difference) else difference / (scale or 1.0)

"""Whether a checkpoint computes what another does, seen by running both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.errors import MachineError, PermutationError, UsageError
from rebasin_cli.models.module_weights import fill, widen_model, widen_tensor
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.models.user.construction import cause_of
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import BoundSpec, draw_permutations
from rebasin_cli.tensors import TensorSource, dtype_name
from rebasin_cli.tensors.compare import SAME_FUNCTION, relative_difference
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.recording.capture import named_outputs, primary_outputs
from rebasin_cli.tracer.recording.recorder import primitive_kernels

OutputsByInput = Sequence[Mapping[str, Tensor]]


def check_function(
    check: FunctionCheck | None, one: TensorSource, other: TensorSource, *, where: str
) -> FunctionDifference | None:
    """Return how far the outputs of a checkpoint move as its units do, if that can be looked at.

    Raises PermutationError if they do: before a model of another function is written. where: the
    checkpoint.
    """
    if check is None:
        return None
    try:
        function = compare_functions(check, one, other, inputs=1)
    except (UsageError, MachineError):
        if check.required:
            raise
        return None
    if math.isnan(function.difference) and not check.required:
        return None
    if not function.same:
        raise PermutationError(
            f"in this order of its units {check.network.subject.name} computes something else",
            where=where,
            detail=f"its outputs move by {function.difference:.2g} of their scale",
            hint="is its config.json that of these weights, and the spec that of the model? "
            "--no-check writes it all the same",
        )
    return function


def compare_functions(
    check: FunctionCheck,
    one: TensorSource,
    other: TensorSource,
    *,
    inputs: int | None = None,
    beside: FunctionCheck | None = None,
) -> FunctionDifference:
    """Return how far apart the outputs of two checkpoints are on the model's random inputs.

    inputs: how many of them; None: all. beside: the model of the other, if it is one of its own. In
    float64, or in float32 where the model computes no numbers in that; NaN if it computes none at
    all. What a checkpoint lacks, such as a head, has the same random values for both in one model.
    Raises UsageError if the model does not run, MachineError if it does not fit into memory.
    """
    subject = check.network.subject
    try:
        with quiet():
            model = subject.build()
            second = beside.network.subject.build() if beside else model
            examples = subject.examples(model)[:inputs]
            for dtype in (torch.float64, torch.float32):
                widen_model(model, dtype)
                widen_model(second, dtype)
                runs = [
                    _outputs_of_model(model, one, check, examples),
                    _outputs_of_model(second, other, beside or check, examples),
                ]
                if all(map(_finite, runs)):
                    break
    except MemoryError as error:
        raise MachineError(f"{subject.name} does not fit into memory") from error
    except RuntimeError as error:
        what = f"{subject.name} does not run with the weights of the checkpoints"
        raise UsageError(what, detail=cause_of(error)) from error
    difference = _largest_difference(*runs) if _finite(runs[0]) else math.nan
    return FunctionDifference(difference, len(examples), dtype_name(dtype))


def keeps_function(check: FunctionCheck, source: TensorSource, bound: BoundSpec) -> bool:
    """Return whether a model computes the same with all groups of a spec permuted at random.

    A model that cannot be run is taken to.
    """
    generator = torch.Generator().manual_seed(0)
    permutations = draw_permutations(bound.groups.values(), generator)
    moved = Permuted(source, bound.tensors, permutations)
    try:
        found = compare_functions(check, source, moved, inputs=1)
    except (UsageError, MachineError):
        return True
    return found.same or math.isnan(found.difference)


def _outputs_of_model(
    model: nn.Module, source: TensorSource, check: FunctionCheck, examples: Sequence[Example]
) -> OutputsByInput:
    fill(model, source, check.network.windows)
    dtype = next((p.dtype.to_real() for p in model.parameters()), torch.float64)
    return [_outputs_of_call(model, example, dtype, check.outputs) for example in examples]


def _outputs_of_call(
    model: nn.Module, example: Example, dtype: torch.dtype, names: Sequence[str]
) -> dict[str, Tensor]:
    args: Any = map_leaves(example.args, Tensor, lambda t: widen_tensor(t, dtype))
    kwargs: Any = map_leaves(dict(example.kwargs), Tensor, lambda t: widen_tensor(t, dtype))
    torch.manual_seed(0)
    with primitive_kernels():
        returned = model(*args, **kwargs)
    found = named_outputs(returned)
    wanted = names or primary_outputs(returned)
    return {name: found[name].clone() for name in wanted if name in found}


def _finite(outputs: OutputsByInput) -> bool:
    return all(bool(torch.isfinite(value).all()) for run in outputs for value in run.values())


def _largest_difference(one: OutputsByInput, other: OutputsByInput) -> float:
    pairs = [(run[n], again[n]) for run, again in zip(one, other, strict=True) for n in run]
    return max((relative_difference(a, b) for a, b in pairs), default=math.inf)


@dataclass(frozen=True)
class FunctionDifference:
    """How far apart the outputs of two checkpoints are, in units of their largest value.

    inputs: on how many random inputs. dtype: in which the model was run.
    """

    difference: float
    inputs: int
    dtype: str

    @property
    def same(self) -> bool:
        return self.difference <= SAME_FUNCTION

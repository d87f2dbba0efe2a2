"""Whether a model can be cut in two: whether the rest depends on the tensor of the cut alone.

The model is run again, with noise for all that modules before the cut return and with the tensor
as it was. Its outputs must not move.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.commands.merge.operations import Operations
from rebasin_cli.commands.merge.preserve_first.call_order import (
    CallSpan,
    inside_of,
    run_example,
)
from rebasin_cli.commands.merge.preserve_first.cut_points import CutPoint
from rebasin_cli.commands.merge.preserve_first.joined_model import (
    JoinReached,
    place_of_input,
    with_tensors,
)
from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.subject import Example
from rebasin_cli.network.layers import with_hooks
from rebasin_cli.tensors.compare import SAME_IN_FLOAT64, relative_difference
from rebasin_cli.tensors.trees import tensors_in


def cut_holds(
    model: nn.Module, spans: Mapping[str, CallSpan], cut_point: CutPoint, example: Example
) -> bool:
    """Return whether all that follows a cut depends on its tensor alone, and on the model's inputs.

    model: in float64.
    """
    place = spans[cut_point.join].starts[0]
    before = [n for n in spans if any(n == k or inside_of(n, k) for k in cut_point.kept)]
    if any(start > place for name in before for start in spans[name].starts):
        return False
    try:
        expected, value = _watched(model, cut_point.join, example)
        found = _with_noise(model, cut_point, example, value)
    except (TypeError, UserCodeError):  # it is called without a tensor, or noise is no input
        return False
    return outputs_difference(expected, found) <= SAME_IN_FLOAT64


def pass_costs(model: nn.Module, cut_point: CutPoint, example: Example) -> tuple[int, int]:
    """Return the operations of a pass up to a cut and of a whole one: products, counted twice."""

    def stop(*_: Any) -> None:
        raise JoinReached(torch.zeros(()))

    with Operations() as whole:
        run_example(model, example)
    join = model.get_submodule(cut_point.join)
    with (
        Operations() as part,
        with_hooks([join.register_forward_pre_hook(stop)]),
        contextlib.suppress(JoinReached),
        torch.no_grad(),
    ):
        model(*example.args, **example.kwargs)
    return part.count, whole.count


def outputs_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference of all outputs together, over the largest value of them all.

    Infinite where outputs are: those of a model that overflows are equal whatever it reads.
    """
    if [t.shape for t in one] != [t.shape for t in other]:
        return math.inf
    expected, found = (
        torch.cat([torch.empty(0), *map(_flat, outputs)]) for outputs in (one, other)
    )
    return relative_difference(expected, found) if expected.isfinite().all() else math.inf


def _flat(output: Tensor) -> Tensor:
    return output.double().flatten()


def outputs_of(model: nn.Module, example: Example) -> list[Tensor]:
    """Return copies of the tensors that a model returns."""
    return [tensor.clone() for tensor in tensors_in(run_example(model, example))]


def _watched(model: nn.Module, join: str, example: Example) -> tuple[list[Tensor], Tensor]:
    """Return the outputs of a model, and what a module is called with first."""
    values: list[Tensor] = []

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        place = place_of_input(args, kwargs)
        values.append((kwargs[place] if isinstance(place, str) else args[place]).clone())

    hook = model.get_submodule(join).register_forward_pre_hook(see, with_kwargs=True)
    with with_hooks([hook]), torch.no_grad():
        outputs = tensors_in(model(*example.args, **example.kwargs))
    return [tensor.clone() for tensor in outputs], values[0]


def _with_noise(
    model: nn.Module, cut_point: CutPoint, example: Example, value: Tensor
) -> list[Tensor]:
    """Return the outputs with noise for what is kept, and a tensor for the input of the join."""
    generator = torch.Generator().manual_seed(0)
    given = [value]

    def noisy(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return noise.to(tensor) if tensor.is_floating_point() else tensor

    def give(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not given:
            return None
        place, tensor = place_of_input(args, kwargs), given.pop()
        if isinstance(place, str):
            return args, {**kwargs, place: tensor}
        return (*args[:place], tensor, *args[place + 1 :]), kwargs

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda m, a, output: with_tensors(output, noisy)
        )
        for name in cut_point.kept
    ]
    join = model.get_submodule(cut_point.join)
    handles.append(join.register_forward_pre_hook(give, with_kwargs=True))
    with with_hooks(handles):
        return outputs_of(model, example)

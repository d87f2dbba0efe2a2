"""Inputs that the user describes: a shape, or a function that returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import (
    CPU,
    as_script,
    failure_on,
    moved_to,
    normal_noise,
    quiet,
    random_ids,
)
from rebasin_cli.models.user.construction import cause_of
from rebasin_cli.models.user.imports import named_object

Examples = Callable[[nn.Module], tuple[Example, ...]]


def examples_of_shape(shape: Sequence[int]) -> Examples:
    """Return the examples that a shape stands for: itself and one more along the first axis.

    Float32 noise, or indices where the first layer with parameters is an embedding. The second
    example is left out for a model that runs with the first one only.
    """
    if not shape or min(shape) < 1:
        raise UsageError(f"not the shape of an input: {','.join(map(str, shape))}")

    def examples(model: nn.Module) -> tuple[Example, ...]:
        table = _leading_embedding(model)
        make = normal_noise if table is None else lambda size: random_ids(size, table, avoid=(0,))
        first = Example((make(tuple(shape)),))
        second = Example((make((shape[0] + 1, *shape[1:])),))
        insists = failure_on(model, first) is None and failure_on(model, second) is not None
        return (first,) if insists else (first, second)

    return examples


def examples_of_function(target: str) -> Examples:
    """Return the examples that a user's function returns, called without arguments.

    A tensor is the only argument of a call, a tuple its positional and a dict its keyword
    arguments; an object with `args` and `kwargs` is both; a list holds several calls.
    """
    function = named_object(target)
    if not callable(function):
        raise UsageError(f"{target} is not a function")

    def examples(model: nn.Module) -> tuple[Example, ...]:
        try:
            with quiet(), as_script(target), CPU:
                value = function()
        except (Exception, SystemExit) as error:  # a user's function can do anything
            raise UsageError(f"{target} fails", detail=cause_of(error)) from error
        calls = value if isinstance(value, list) else [value]
        found = tuple(_example(target, call) for call in calls)
        if not found:
            raise UsageError(f"{target} returns no input")
        return found

    return examples


def _example(target: str, value: Any) -> Example:
    """Return one call as a user's function may write it."""
    if isinstance(value, torch.Tensor):
        return Example((value.to(CPU),))
    if isinstance(value, tuple):
        return Example(moved_to(CPU, tuple(value)))
    if isinstance(value, Mapping):  # also the BatchEncoding of a tokenizer
        return Example((), moved_to(CPU, dict(value)))
    if hasattr(value, "args") and hasattr(value, "kwargs"):
        return Example(moved_to(CPU, tuple(value.args)), moved_to(CPU, dict(value.kwargs)))
    kind = type(value).__name__
    raise UsageError(f"{target} returns a {kind}", detail="expected a tensor, a tuple or a dict")


def _leading_embedding(model: nn.Module) -> int | None:
    """Return the number of rows if the first layer with parameters is an embedding."""
    for layer in model.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
                return layer.num_embeddings
            return None
    return None

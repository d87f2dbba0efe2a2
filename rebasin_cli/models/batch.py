"""One batch of a user's data: a call of the model, and what it should answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.attempt import CPU, on
from rebasin_cli.models.subject import Example

SIZES = (2, 3)  # rows of the examples that are cut from a batch


@dataclass(frozen=True)
class Batch:
    """A call of the model, and the right answers, if the data has them."""

    example: Example
    targets: Tensor | None = None

    @property
    def rows(self) -> int:
        """How many inputs there are: the length of the first tensor."""
        tensors = tensors_in((self.example.args, dict(self.example.kwargs)))
        return next((len(tensor) for tensor in tensors if tensor.dim()), 1)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        args, kwargs = on(device, self.example.args), on(device, dict(self.example.kwargs))
        targets = None if self.targets is None else self.targets.to(device)
        return Batch(Example(args, kwargs), targets)


def read_batch(value: object) -> Batch:
    """Return a batch as a loader yields it: inputs, or (inputs, targets).

    inputs: a tensor, a tuple of positional or a mapping of keyword arguments. Raises UserCodeError
    for anything else.
    """
    if isinstance(value, tuple | list) and len(value) == 2 and _answers(value[1]):
        return Batch(_example(value[0]), value[1])
    if isinstance(value, tuple | list) and len(value) == 1:
        return Batch(_example(value[0]))
    return Batch(_example(value))


def examples_of_batches(
    batches: Iterable[Batch],
) -> Callable[[nn.Module], tuple[Example, ...]]:
    """Return examples to trace with: a few rows of the first batch, in two numbers of them."""

    def examples(model: nn.Module) -> tuple[Example, ...]:
        first = next(iter(batches)).to(CPU)
        counts = dict.fromkeys(min(first.rows, size) for size in SIZES)
        return tuple(_cut(first, count) for count in counts)

    return examples


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [tensor for item in tree.values() for tensor in tensors_in(item)]
    if isinstance(tree, tuple | list):
        return [tensor for item in tree for tensor in tensors_in(item)]
    return []


def _answers(value: object) -> bool:
    """Return whether the second of two things can be the targets."""
    return value is None or isinstance(value, Tensor)


def _example(value: Any) -> Example:
    if isinstance(value, Tensor):
        return Example((value,))
    if isinstance(value, Mapping):  # also the BatchEncoding of a tokenizer
        return Example((), dict(value))
    if isinstance(value, tuple | list) and tensors_in(value):
        return Example(tuple(value))
    raise UserCodeError(
        f"the data yields a {type(value).__name__}",
        detail="expected inputs or (inputs, targets), where inputs are a tensor, a tuple or a dict",
    )


def _cut(batch: Batch, count: int) -> Example:
    """Return the first rows of a batch."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:count] if value.dim() and len(value) == batch.rows else value
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        return type(value)(map(cut, value)) if type(value) in (tuple, list) else value

    return Example(cut(batch.example.args), cut(dict(batch.example.kwargs)))

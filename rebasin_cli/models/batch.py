"""One batch of a user's data: a call of the model, and what it should answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import moved_to
from rebasin_cli.tensors import dtype_name
from rebasin_cli.tensors.trees import map_leaves, tensors_in

FEW = 8  # parts of a batch that are described one by one


@dataclass(frozen=True)
class Batch:
    """A call of the model, and the right answers, if the data has them.

    where: which batch it is, for an error.
    """

    example: Example
    targets: Tensor | None = None
    where: str = "the batch"

    @property
    def rows(self) -> int:
        """How many inputs there are: the length of the first tensor."""
        tensors = tensors_in((self.example.args, dict(self.example.kwargs)))
        return next((len(tensor) for tensor in tensors if tensor.dim()), 1)

    def in_rows(self, tensor: Tensor) -> bool:
        """Return whether a tensor of the batch has a row for each input."""
        return bool(tensor.dim()) and len(tensor) == self.rows

    def cut(self, begin: int, end: int) -> Batch:
        """Return the batch of some rows."""
        call = (self.example.args, dict(self.example.kwargs), self.targets)
        args, kwargs, targets = map_leaves(
            call, Tensor, lambda tensor: tensor[begin:end] if self.in_rows(tensor) else tensor
        )
        return Batch(Example(args, kwargs), targets, self.where)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        args, kwargs = (
            moved_to(device, self.example.args),
            moved_to(device, dict(self.example.kwargs)),
        )
        targets = None if self.targets is None else self.targets.to(device)
        return Batch(Example(args, kwargs), targets, self.where)


def read_batch(value: object, where: str = "the batch") -> Batch:
    """Return a batch as a loader yields it: inputs, or (inputs, targets).

    inputs: a tensor, a tuple of positional or a mapping of keyword arguments; an array of numpy is
    a tensor. What it is to a model is told by `fitted`. Raises UserCodeError for anything else.
    """
    value = map_leaves(value, (np.ndarray, np.generic), _as_tensor)
    if isinstance(value, tuple | list) and len(value) == 2:
        targets = answers_in(value[1])
        if targets is not None or value[1] is None:
            return Batch(_example(value[0]), targets, where)
    if isinstance(value, tuple | list) and len(value) == 1:
        return Batch(_example(value[0]), where=where)
    return Batch(_example(value), where=where)


def answers_in(value: object) -> Tensor | None:
    """Return what can be targets as a tensor: it is one, numbers, or one of these in a mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        return answers_in(next(iter(value.values())))
    if isinstance(value, tuple | list) and value and all(isinstance(x, int | float) for x in value):
        return torch.tensor(value)
    return None


def describe_batch(batch: Batch) -> str:
    """Return the types and shapes of the parts of a batch."""
    parts = [_word(part) for part in batch.example.args]
    parts += [f"{name}: {_word(part)}" for name, part in batch.example.kwargs.items()]
    text = ", ".join(parts)
    return text if batch.targets is None else f"{text}; targets {_word(batch.targets)}"


def _as_tensor(array: np.ndarray[Any, Any] | np.generic) -> Any:
    """Return an array of numpy as a tensor, if it holds numbers or truth values."""
    return torch.as_tensor(array) if array.dtype.kind in "biufc" else array


def _word(part: object) -> str:
    """Return the type of a part, and the shape if it has one."""
    if isinstance(part, Tensor):
        return f"{dtype_name(part.dtype)} {tuple(part.shape)}"
    if isinstance(part, Mapping):
        return f"{{{', '.join(f'{key}: {_word(item)}' for key, item in part.items())}}}"
    if isinstance(part, tuple | list) and len(part) <= FEW:
        return f"({', '.join(map(_word, part))})"
    return type(part).__name__


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

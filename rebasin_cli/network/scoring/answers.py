"""What a model answered beside the right answers: logits and targets in one form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch, describe_batch
from rebasin_cli.tensors import dtype_name

UNCOUNTED = -100  # the class of answers that torch's cross-entropy passes over
JUDGE = "--evaluate FILE.py:FUNCTION takes the model and returns the loss it was trained on"
TOTAL = 1e-3  # by which probabilities of one answer may miss their sum of 1: rounding in float16


@dataclass(frozen=True)
class Answers:
    """Logits (answers, classes), and what they should be.

    targets: classes (answers,) or probabilities of classes (answers, classes), float64. right: the
    class of each answer, the likeliest one.
    """

    rows: Tensor
    targets: Tensor

    @property
    def right(self) -> Tensor:
        return self.targets.argmax(-1) if self.targets.dim() == 2 else self.targets


def counted_answers(logits: Tensor, targets: Tensor, batch: Batch) -> Answers:
    """Return the answers in a batch that count. batch: whose targets they are, for an error.

    Targets are classes, as whole numbers of any dtype, with or without an axis of size 1, or
    probabilities of the shape of the logits, such as one-hot rows. Raises UserCodeError, with the
    batch and both shapes, for anything else.
    """
    if logits.dim() < 2 or (logits.dim() == 2 and logits.shape[1] == 1):
        raise _mistaken(batch, logits, "the model gives one number for each answer, not classes")
    for shaped in _shapes(targets):
        axis = class_axis(logits, shaped)
        if axis is not None:
            rows = logits.movedim(axis, -1).flatten(0, -2)
            return _without_uncounted(rows, _classes(rows, shaped.flatten(), batch))
    if targets.shape != logits.shape:
        shapes = f"logits of shape {tuple(logits.shape)} do not fit targets of shape"
        raise _mistaken(batch, logits, f"{shapes} {tuple(targets.shape)}")
    for axis in (1, -1):
        if _probabilities(targets, axis):
            rows, likely = (v.movedim(axis, -1).flatten(0, -2) for v in (logits, targets))
            return Answers(rows, likely.double())
    raise _mistaken(batch, logits, "its targets name several classes at once, or are no classes")


def _shapes(targets: Tensor) -> Iterator[Tensor]:
    """Yield targets as they are, then without an axis of size 1 where the classes may stand."""
    yield targets
    for axis in (targets.dim() - 1, 1):
        if 0 < axis < targets.dim() and targets.shape[axis] == 1:
            yield targets.squeeze(axis)


def class_axis(logits: Tensor, targets: Tensor) -> int | None:
    """Return the axis of the classes, the last or axis 1, where that fits the targets."""
    if logits.shape[:-1] == targets.shape:
        return -1
    return 1 if logits.shape[:1] + logits.shape[2:] == targets.shape else None


def _classes(rows: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """Return targets as classes of the rows. Raises UserCodeError if they are none."""
    whole = targets.long()
    if targets.is_floating_point() and not torch.equal(whole.to(targets.dtype), targets):
        raise _mistaken(batch, rows, "its targets are fractions, not classes")
    counted = whole[whole != UNCOUNTED]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < rows.shape[-1]:
        found = f"its targets go from {int(counted.min())} to {int(counted.max())}"
        raise _mistaken(
            batch, rows, f"{found}, and the model knows classes 0 to {rows.shape[-1] - 1}"
        )
    return whole


def _without_uncounted(rows: Tensor, targets: Tensor) -> Answers:
    counts = targets != UNCOUNTED
    return Answers(rows, targets) if bool(counts.all()) else Answers(rows[counts], targets[counts])


def _probabilities(targets: Tensor, axis: int) -> bool:
    """Return whether targets are probabilities of classes along an axis."""
    values = targets.double()
    return bool((values >= 0).all()) and bool(((values.sum(axis) - 1).abs() <= TOTAL).all())


def _mistaken(batch: Batch, logits: Tensor, reason: str) -> UserCodeError:
    return UserCodeError(
        f"{batch.where}: {reason}",
        detail=f"the batch is {describe_batch(batch)}; the model returns "
        f"{dtype_name(logits.dtype)} {tuple(logits.shape)}",
        hint=JUDGE,
    )

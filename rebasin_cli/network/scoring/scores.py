"""How good a model is on data: loss and accuracy, or what a user's own function says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite, isnan, nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch, describe_batch
from rebasin_cli.models.user.batch_inputs import fit_batch, is_labelled, named_targets
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.passes_with_room import pass_with_room
from rebasin_cli.network.scoring.answers import counted_answers
from rebasin_cli.network.user_code import users_code
from rebasin_cli.tensors.numbers import on_host

Scores = Mapping[str, float]
Judge = Callable[[nn.Module], Scores]


def cross_entropy_judge(batches: Batches) -> Judge:
    """Return the judge that measures cross-entropy in nats and accuracy, over all targets.

    A model that returns a loss of its own for batches without targets is judged by that.
    Raises UserCodeError, when called, for data that has neither or where a loss is not finite.
    """

    def judge(model: nn.Module) -> Scores:
        total, hits, answers = pass_with_room([model], batches, partial(_judged, model))
        if not answers:
            raise UserCodeError(f"{batches.name} holds no target that counts")
        scores = {"loss": total / answers, "accuracy": hits / answers}
        if isnan(scores["accuracy"]):  # there were no targets to compare with
            del scores["accuracy"]
        return check_scores(scores, batches.name)

    return judge


def _judged(model: nn.Module, batches: Batches) -> tuple[float, float, int]:
    """Return the summed loss, the right answers (NaN: unknown), and how many count, of a pass.

    The sums stay where the model is until the end: no batch waits for the one before it.
    """
    with torch.no_grad():
        found = [judge_batch(model, batch, batches.name) for batch in batches]
    losses, hits, counts = zip(*found, strict=True)
    return _summed(losses), _summed(hits), sum(counts)


def _summed(numbers: Sequence[Tensor]) -> float:
    """Return the sum of numbers, one after another in float64."""
    return sum(on_host(number.double() for number in numbers), 0.0)


def has_targets(model: nn.Module, batch: Batch) -> bool:
    """Return whether a batch says what a model should answer."""
    return is_labelled(fit_batch(batch, model))


def mean_loss(model: nn.Module, batches: Iterable[Batch], name: str) -> float:
    """Return the loss of all answers in some batches, without gradients; see `judge_batch`."""
    with torch.no_grad():
        found = [judge_batch(model, batch, name) for batch in batches]
    return _summed([loss for loss, _, _ in found]) / sum(count for _, _, count in found)


def own_judge(function: Callable[[nn.Module], object], name: str) -> Judge:
    """Return the judge that asks a user's function: a number, which is a loss, or a dict of them.

    Raises UserCodeError, when called, for anything else or a number that is not finite.
    """

    def judge(model: nn.Module) -> Scores:
        with users_code(name), torch.no_grad():
            said = function(model)
        return check_scores(_numbers(said, name), name)

    return judge


def call_model(model: nn.Module, batch: Batch) -> Any:
    """Return what a model answers to a batch.

    Raises UserCodeError if it raises, or cannot be called with what the batch holds.
    """
    batch = fit_batch(batch, model)
    with users_code("the model"):
        return model(*batch.example.args, **batch.example.kwargs)


def check_scores(scores: Scores, name: str) -> Scores:
    """Return scores. Raises UserCodeError for one that is NaN or infinite."""
    wrong = [f"{key} is {value}" for key, value in scores.items() if not isfinite(value)]
    if wrong:
        raise UserCodeError(f"{name}: {', '.join(wrong)}", detail="a curve needs finite numbers")
    return scores


def logits_of(returned: Any) -> Tensor:
    """Return the tensor among what a model returned that is compared with the targets.

    Raises UserCodeError if there is none.
    """
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, Mapping):
        return logits_of(returned.get("logits", next(iter(returned.values()), None)))
    if isinstance(returned, tuple | list) and returned:
        return logits_of(returned[0])
    if isinstance(getattr(returned, "logits", None), Tensor):
        return logits_of(returned.logits)
    kind = type(returned).__name__
    raise UserCodeError(
        f"the model returns a {kind}, not logits", hint="--evaluate FILE.py:FUNCTION"
    )


def judge_batch(model: nn.Module, batch: Batch, name: str) -> tuple[Tensor, Tensor, int]:
    """Run a batch; return the summed loss, the right answers (NaN: unknown), and how many count.

    name: of the data. Raises UserCodeError for a batch without targets, unless the model returned a
    loss, and for targets that its output cannot be compared with.
    """
    batch = fit_batch(batch, model)
    returned = call_model(model, batch)
    targets = batch.targets
    if targets is None:
        loss = returned.get("loss") if isinstance(returned, Mapping) else None
        if loss is not None:
            total = torch.as_tensor(loss) * batch.rows
            return total, torch.full_like(total, nan), batch.rows
        targets = named_targets(batch.example.kwargs)
        if targets is None:
            raise UserCodeError(
                f"{name} yields no targets",
                detail=f"{batch.where} is {describe_batch(batch)}",
                hint="yield (inputs, targets), or name an --evaluate",
            )
    found = counted_answers(logits_of(returned), targets, batch)
    with users_code("cross-entropy of the model's output and the targets"):
        loss = F.cross_entropy(found.rows.double(), found.targets, reduction="sum")
        hits = (found.rows.argmax(-1) == found.right).sum()
    return loss, hits, len(found.rows)


def _numbers(said: object, name: str) -> dict[str, float]:
    """Return what a user's function said as named numbers."""
    named: Mapping[Any, Any] = said if isinstance(said, Mapping) else {"loss": said}
    try:
        return {str(key): float(value) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        kind = type(said).__name__
        raise UserCodeError(
            f"{name} returns a {kind}", detail="expected a number or a dict of numbers"
        ) from error

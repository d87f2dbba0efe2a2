"""What the parts of a batch are to a model: told by what its forward takes.

Loaders yield more than inputs and targets (weights, indices), and dictionaries in which the targets
stand beside the inputs. What they mean is read off the names and the number of parameters, and
where that says nothing it is not guessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch, answers_in, describe_batch
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import CPU

SIZES = (2, 3)  # rows of the examples that are cut from a batch
TARGETS = ("labels", "label", "targets", "target", "y")  # keys that hold the right answers
EVALUATE = "or --evaluate FILE.py:FUNCTION, which judges the model itself"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class ForwardInputs:
    """What a forward takes.

    names: that it may be called with; None: any. needed, most: positions without and with those
    that have a default.
    """

    names: frozenset[str] | None
    needed: int
    most: float


def fit_batch(batch: Batch, model: nn.Module) -> Batch:
    """Return a batch with every part where the model's forward takes it, or as targets.

    Raises UserCodeError where the parts of a batch could be either, or are neither.
    """
    takes = _takes(model)
    args, kwargs = batch.example.args, batch.example.kwargs
    if takes is None:
        return batch
    if kwargs and takes.names is not None:
        return _by_name(batch, takes, takes.names)
    if batch.targets is not None:
        second = len(args) == 1 and not kwargs and takes.needed == 2
        return (
            replace(batch, example=Example((*args, batch.targets)), targets=None)
            if second
            else batch
        )
    return _by_position(batch, takes) if len(args) > 2 else batch


def examples_of_batches(
    batches: Iterable[Batch],
) -> Callable[[nn.Module], tuple[Example, ...]]:
    """Return examples to trace with: a few rows of the first batch, in two numbers of them."""

    def examples(model: nn.Module) -> tuple[Example, ...]:
        first = fit_batch(next(iter(batches)).to(CPU), model)
        counts = dict.fromkeys(min(first.rows, size) for size in SIZES)
        return tuple(first.cut(0, count).example for count in counts)

    return examples


def _takes(model: nn.Module) -> ForwardInputs | None:
    """Return what a model's forward takes, None if that cannot be told."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = {p.kind for p in parameters}
    places = [p for p in parameters if p.kind in _POSITIONAL]
    return ForwardInputs(
        names=None
        if inspect.Parameter.VAR_KEYWORD in kinds
        else frozenset(p.name for p in parameters if p.kind in _NAMED),
        needed=sum(p.default is p.empty for p in places),
        most=inf if inspect.Parameter.VAR_POSITIONAL in kinds else len(places),
    )


def _by_name(batch: Batch, takes: ForwardInputs, names: frozenset[str]) -> Batch:
    """Return a batch of named parts with the targets, and a single input, taken out."""
    parts = dict(batch.example.kwargs)
    if batch.targets is None:
        batch = replace(
            batch, targets=named_targets({k: v for k, v in parts.items() if k not in names})
        )
        parts = {
            k: v for k, v in parts.items() if batch.targets is None or k in names or not _answers(k)
        }
    strange = [key for key in parts if key not in names]
    if not strange:
        return replace(batch, example=Example((), parts))
    if len(parts) == 1 and takes.needed <= 1 <= takes.most:
        return replace(batch, example=Example(tuple(parts.values())))
    raise UserCodeError(
        f"{batch.where}: the model takes no {', '.join(strange)}",
        detail=f"it takes {', '.join(sorted(names)) or 'nothing'}; "
        f"the batch is {describe_batch(batch)}",
        hint=f"yield (inputs, targets), the inputs named as in forward; {EVALUATE}",
    )


def named_targets(parts: Mapping[str, object]) -> Tensor | None:
    """Return the targets among named parts, None if there are none or several."""
    found = [value for key, value in parts.items() if _answers(key)]
    return answers_in(found[0]) if len(found) == 1 else None


def is_labelled(batch: Batch) -> bool:
    """Return whether a batch says what a model should answer, whatever the model."""
    return batch.targets is not None or named_targets(batch.example.kwargs) is not None


def _answers(key: str) -> bool:
    return key.lower() in TARGETS


def _by_position(batch: Batch, takes: ForwardInputs) -> Batch:
    """Return a batch of three parts and more with the targets taken out, if it has any."""
    parts = batch.example.args
    count = len(parts)
    if takes.needed == count or takes.most == inf:
        return batch
    inputs = {1: 1, count - 1: count - 1}.get(takes.needed) if takes.needed == takes.most else None
    targets = None if inputs is None else answers_in(parts[inputs])
    if targets is not None:
        return replace(batch, example=Example(parts[:inputs]), targets=targets)
    raise UserCodeError(
        f"{batch.where}: which of its {count} parts are inputs, and which are targets?",
        detail=f"the batch is {describe_batch(batch)}; forward takes {_positions(takes)}",
        hint=f"yield (inputs, targets), several inputs as a tuple or a dict; {EVALUATE}",
    )


def _positions(takes: ForwardInputs) -> str:
    if takes.needed == takes.most:
        return f"{takes.needed} of them"
    return f"{takes.needed} to {takes.most:.0f} of them"

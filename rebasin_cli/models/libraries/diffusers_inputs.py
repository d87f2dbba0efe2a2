"""Inputs of diffusers' models, from the signature of `forward` and the configuration."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.coverage import parameters_reached
from rebasin_cli.models.libraries.diffusers_arguments import (
    WAYS,
    ArgumentMaker,
    DenoiserSize,
    asks,
)
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import CPU, failure_on
from rebasin_cli.models.user.construction import cause_of

SIZES = ((2, 16, 7), (3, 24, 5))
FIXED = ((2, 32, 7), (3, 32, 5))
InputKind = tuple[Mapping[str, ArgumentMaker], tuple[tuple[int, int, int], ...]]


def diffusers_examples(small: Callable[[], nn.Module], model: nn.Module) -> tuple[Example, ...]:
    """Return two examples of the kind of input of which the most of the model takes part.

    What it accepts is tried on the small model, with real tensors; of kinds that are as good the
    first is taken.
    """
    try:
        with CPU:
            tried = small()
    except UsageError:  # no small one can be made: the model itself has to do
        tried = model
    found: InputKind | None = None
    best = -1.0
    for makers, sizes in _accepted(tried):
        share = parameters_reached(tried, _example(tried, makers, sizes[0]))
        if share > best:
            found, best = (makers, sizes), share
        if share in (0.0, 1.0):  # all of it; or a large model, of which no share is known
            break
    if found is None:
        raise _refused(tried, type(model).__name__)
    return tuple(_example(model, found[0], size) for size in found[1])


def _accepted(tried: nn.Module) -> Iterator[InputKind]:
    """Yield the kinds of input that a model accepts, with one or two sizes."""
    for makers in _combinations(tried):
        for first, second in (SIZES, FIXED):
            if failure_on(tried, _example(tried, makers, first)) is None:
                again = failure_on(tried, _example(tried, makers, second)) is None
                yield makers, (first, second) if again else (first,)
                break


def _refused(tried: nn.Module, name: str) -> UsageError:
    """Return the error of a model that accepts no kind of input, with what it says of one.

    Of the one that it got furthest with: others fail at the first look at a shape.
    """
    tries = (
        (", ".join(makers) or "nothing", failure_on(tried, _example(tried, makers, SIZES[0])))
        for makers in _combinations(tried)
    )
    raised = [(names, error) for names, error in tries if error is not None]
    furthest = max(raised, key=lambda pair: _depth(pair[1]), default=None)
    return UsageError(
        f"no input was found that {name} accepts",
        detail=f"given {furthest[0]}: {cause_of(furthest[1])}" if furthest else "",
        hint="pass --input file.py:function",
    )


def _depth(error: BaseException) -> int:
    return len(list(traceback.walk_tb(error.__traceback__)))


def _example(
    model: Any, makers: Mapping[str, ArgumentMaker], size: tuple[int, int, int]
) -> Example:
    """Return the call that the makers build for a model."""
    frame = DenoiserSize(dict(model.config), *size)
    return Example((), {name: make(frame) for name, make in makers.items()})


def _combinations(model: Any) -> Iterator[dict[str, ArgumentMaker]]:
    """Yield sets of arguments to try: those that the configuration asks for."""
    names = inspect.signature(model.forward).parameters
    frame = DenoiserSize(dict(model.config), *SIZES[0])
    asked = [name for name in names if name in WAYS and asks(frame, name, names)]
    mask = names.get("encoder_attention_mask")
    if mask is not None and mask.default is None:
        asked.remove(mask.name)  # a mask of ones says nothing
    ways = {name: WAYS[name] for name in asked}
    for choice in product(*ways.values()):
        yield dict(zip(ways, choice, strict=True))

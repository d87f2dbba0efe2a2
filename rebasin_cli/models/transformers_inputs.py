"""Inputs of transformers' models, from the signature of `forward` and the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.attempt import CPU, failure
from rebasin_cli.models.called import cause
from rebasin_cli.models.subject import Example
from rebasin_cli.models.transformers_arguments import (
    WAYS,
    Frame,
    Maker,
    image_token,
    patches,
    text_with_image,
    token_kinds,
)

SIZES = ((2, 7, 6), (3, 5, 4))
PICTURED = ("image_grid_thw", "image_sizes", "mm_token_type_ids")  # beside pixel_values


def transformers_examples(small: Callable[[], nn.Module], model: nn.Module) -> tuple[Example, ...]:
    """Return two examples of the richest input that the model accepts.

    What it accepts is tried on the small model, with real tensors: some look at values.
    """
    try:
        with CPU:
            tried = small()
    except UsageError:  # no small one can be made: the model itself has to do
        tried = model
    for makers in _combinations(tried):
        sizes = [size for size in SIZES if _refusal(tried, makers, size) is None]
        try:
            found = tuple(_example(model, makers, size) for size in sizes)
        except Exception:  # parts of the model run to find how many tokens an image takes
            continue
        if found:
            return found
    makers = _simplest(tried)
    raise UsageError(
        f"no input was found that {type(model).__name__} accepts",
        detail=f"given {', '.join(makers)}: {_refusal(tried, makers, SIZES[0])}",
        hint="pass --input file.py:function",
    )


def _refusal(
    model: nn.Module, makers: Mapping[str, Maker], size: tuple[int, int, int]
) -> str | None:
    """Return why a call cannot be made or does not run, or None if it does."""
    try:
        error = failure(model, _example(model, makers, size))
    except Exception as raised:  # see transformers_examples
        error = raised
    return None if error is None else cause(error)


def _example(model: nn.Module, makers: Mapping[str, Maker], size: tuple[int, int, int]) -> Example:
    """Return the call that the makers build for a model."""
    frame = Frame(model, *size)
    return Example((), {name: make(frame) for name, make in makers.items()})


def _simplest(model: Any) -> dict[str, Maker]:
    """Return the arguments whose refusal says most: all that are known, each in its first form."""
    known = [name for name in inspect.signature(model.forward).parameters if name in WAYS]
    return next(_choices(_ways(known)))


def _combinations(model: Any) -> Iterator[dict[str, Maker]]:
    """Yield sets of arguments to try, the richest first."""
    known = [name for name in inspect.signature(model.forward).parameters if name in WAYS]
    if "decoder_input_ids" in known and not model.config.is_encoder_decoder:
        known.remove("decoder_input_ids")
    if {"pixel_values", "input_ids"} <= set(known) and image_token(Frame(model, *SIZES[0])):
        yield from _illustrated(known)
    # What belongs to images alone, and the second form of an image, a video.
    rest = [name for name in known if name not in (*PICTURED, "pixel_values_videos")]
    main = model.main_input_name
    for wanted in (rest, known, [main], ["input_ids"], [main, "decoder_input_ids"]):
        yield from _choices(_ways(name for name in wanted if name in known))
    yield {name: _constant(value) for name, value in model.dummy_inputs.items()}


def _illustrated(known: Sequence[str]) -> Iterator[dict[str, Maker]]:
    """Yield sets of arguments for a text that holds an image's tokens."""
    known = [name for name in known if name != "pixel_values_videos"]
    for left_out in (), ("image_sizes",):
        extras = tuple(name for name in PICTURED if name in known and name not in left_out)
        ways = _ways(name for name in known if name not in left_out)
        if "image_grid_thw" in known:
            ways["pixel_values"] = (patches,)
        for choice in _choices({name: ways[name] for name in ways if name != "mm_token_type_ids"}):
            picture = {name: choice[name] for name in ("pixel_values", *extras) if name in choice}
            choice["input_ids"] = partial(text_with_image, picture=picture)
            if "mm_token_type_ids" in ways:
                choice["mm_token_type_ids"] = partial(token_kinds, picture=picture)
            yield choice


def _ways(names: Iterable[str]) -> dict[str, tuple[Maker, ...]]:
    return {name: WAYS[name] for name in names}


def _choices(ways: Mapping[str, tuple[Maker, ...]]) -> Iterator[dict[str, Maker]]:
    """Yield one maker for each argument, in all combinations."""
    for choice in product(*ways.values()):
        yield dict(zip(ways, choice, strict=True))


def _constant(value: torch.Tensor) -> Maker:
    return lambda frame: value.cpu()

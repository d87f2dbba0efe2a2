"""Inputs of transformers' models, from the signature of `forward` and the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.coverage import parameters_reached
from rebasin_cli.models.subject import Example
from rebasin_cli.models.transformers.example_size import ExampleSize, TensorMaker
from rebasin_cli.models.transformers.transformers_arguments import (
    REQUIRED,
    WAYS,
    ArgumentForms,
    text_mask,
    text_with,
    token_kinds,
)
from rebasin_cli.models.transformers.transformers_audio import SOUNDS
from rebasin_cli.models.transformers.transformers_images import PICTURES
from rebasin_cli.models.trial_run import failure_on
from rebasin_cli.models.user.construction import cause_of

SIZES = ((2, 7, 6), (3, 5, 4))
PICTURED = ("image_grid_thw", "image_sizes", "mm_token_type_ids")  # beside pixel_values
Makers = dict[str, TensorMaker]


@dataclass(frozen=True)
class AcceptedInput:
    """An input that a small model accepts, and the share of parameters its outputs come from."""

    makers: Makers
    share: float


@dataclass(frozen=True)
class Small:
    """A small configuration, its model if one can be built, and the inputs it accepts.

    inputs: those that use the most of the model first.
    """

    config: Any
    model: nn.Module | None
    inputs: Sequence[AcceptedInput]

    @property
    def share(self) -> float:
        return self.inputs[0].share if self.inputs else -1.0


def transformers_examples(small: Small, model: nn.Module) -> tuple[Example, ...]:
    """Return two examples of the richest input that the model accepts.

    What it accepts was tried on the small model, with real tensors: some look at values. If there
    is none, the model itself has to do.
    """
    tried = small.model if small.model and small.inputs else model
    for fed in small.inputs or find_inputs(model):
        sizes = [size for size in SIZES if _refusal(tried, fed.makers, size) is None]
        try:
            found = tuple(_example(model, fed.makers, size) for size in sizes)
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


def find_inputs(model: nn.Module) -> list[AcceptedInput]:
    """Return what a model accepts, the farthest reaching first, the earliest of equals."""
    found: list[AcceptedInput] = []
    for fed in _accepted(model):
        found.append(fed)
        if fed.share in (0.0, 1.0):  # not to be told, or as good as it gets
            break
    return sorted(found, key=lambda fed: -fed.share)


def _accepted(model: nn.Module) -> Iterator[AcceptedInput]:
    """Yield the inputs that run: media one by one, then together, then everything else."""
    names = _parameters(model)
    media: dict[str, dict[str, TensorMaker]] = {}
    for medium, forms in {"image": PICTURES, "audio": SOUNDS}.items():
        known = [dict(form) for form in forms if form.keys() <= set(names)]
        fed = list(_fed(model, (_variants(names, {medium: form}) for form in known)))
        yield from fed
        if fed:
            best = max(fed, key=lambda one: one.share).makers
            media[medium] = next(form for form in known if form.items() <= best.items())
    if len(media) > 1:
        yield from _fed(model, [_variants(names, media)])
    yield from _fed(model, ((makers,) for makers in _combinations(model)))


def _fed(model: nn.Module, candidates: Iterable[Sequence[Makers]]) -> Iterator[AcceptedInput]:
    """Yield the first accepted variant of each candidate that has one."""
    for variants in candidates:
        for makers in variants:
            if _refusal(model, makers, SIZES[0]) is None:
                yield AcceptedInput(
                    makers, parameters_reached(model, _example(model, makers, SIZES[0]))
                )
                break


def _variants(names: list[str], media: ArgumentForms) -> tuple[Makers, ...]:
    """Return a text with media, and the same with a mask, which some models cannot do without."""
    plain = _with_text(names, media)
    if not {"input_ids", "attention_mask"} <= set(names) or "attention_mask" in plain:
        return (plain,)
    return plain, {**plain, "attention_mask": partial(text_mask, media=media)}


def _with_text(names: list[str], media: ArgumentForms) -> Makers:
    """Return the arguments that carry media, and a text that has places for them if one is read."""
    made = {name: maker for form in media.values() for name, maker in form.items()}
    texts: Makers = {
        "input_ids": partial(text_with, media=media),
        "mm_token_type_ids": partial(token_kinds, media=media),
    }
    if "input_ids" in names:
        made = {**{name: texts[name] for name in texts if name in names}, **made}
    beside = ("decoder_input_ids", "qformer_input_ids", "bbox")
    return {**made, **{name: WAYS[name][0] for name in beside if name in names}}


def _parameters(model: Any) -> list[str]:
    """Return the arguments of `forward`, without those of a decoder where there is none."""
    names = list(inspect.signature(model.forward).parameters)
    if model.config.is_encoder_decoder:
        return names
    return [name for name in names if name != "decoder_input_ids"]


def _refusal(
    model: nn.Module, makers: Mapping[str, TensorMaker], size: tuple[int, int, int]
) -> str | None:
    """Return why a call cannot be made or does not run, or None if it does."""
    try:
        error = failure_on(model, _example(model, makers, size))
    except Exception as raised:  # see transformers_examples
        error = raised
    return None if error is None else cause_of(error)


def _example(
    model: nn.Module, makers: Mapping[str, TensorMaker], size: tuple[int, int, int]
) -> Example:
    """Return the call that the makers build for a model."""
    frame = ExampleSize(model, *size)
    return Example((), {name: make(frame) for name, make in makers.items()})


def _simplest(model: Any) -> Makers:
    """Return all known arguments in their first form: the error to show if none is accepted."""
    known = [name for name in inspect.signature(model.forward).parameters if name in WAYS]
    return next(_choices(_ways(known)))


def _combinations(model: Any) -> Iterator[Makers]:
    """Yield sets of arguments to try, the richest first."""
    signature = inspect.signature(model.forward).parameters.values()
    missing = [item.name for item in signature if item.default is item.empty]
    needed = {name: REQUIRED[name] for name in missing if name in REQUIRED}
    known = [name for name in _parameters(model) if name in WAYS]
    # What belongs to images alone, and the second form of an image, a video.
    rest = [name for name in known if name not in (*PICTURED, "pixel_values_videos")]
    main = model.main_input_name
    for wanted in (rest, known, [main], ["input_ids"], [main, "decoder_input_ids"]):
        for choice in _choices(_ways(name for name in wanted if name in known)):
            yield {**needed, **choice}
    yield {name: _constant(value) for name, value in model.dummy_inputs.items()}


def _ways(names: Iterable[str]) -> dict[str, tuple[TensorMaker, ...]]:
    return {name: WAYS[name] for name in names}


def _choices(ways: Mapping[str, tuple[TensorMaker, ...]]) -> Iterator[Makers]:
    """Yield one maker for each argument, in all combinations."""
    for choice in product(*ways.values()):
        yield dict(zip(ways, choice, strict=True))


def _constant(value: torch.Tensor) -> TensorMaker:
    return lambda frame: value.cpu()

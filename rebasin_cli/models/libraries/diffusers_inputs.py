"""Inputs of diffusers' models, from the signature of `forward` and the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import CPU, failure_on, normal_noise, random_ids
from rebasin_cli.models.user.construction import cause_of


@dataclass(frozen=True)
class DenoiserSize:
    """A model's configuration, and how large its example is: batch, latent side, tokens."""

    config: Mapping[str, Any]
    batch: int
    side: int
    tokens: int

    def get(self, *names: str, default: int = 0) -> int:
        """Return the first of the fields that is set."""
        for name in names:
            value = self.config.get(name)
            value = value[0] if isinstance(value, (list, tuple)) else value
            if isinstance(value, int) and value > 0:
                return value
        return default


ArgumentMaker = Callable[[DenoiserSize], Any]
SIZES = ((2, 16, 7), (3, 24, 5))
FIXED = ((2, 32, 7), (3, 32, 5))


def diffusers_examples(small: Callable[[], nn.Module], model: nn.Module) -> tuple[Example, ...]:
    """Return two examples of the first kind of input that the model accepts.

    What it accepts is tried on the small model, with real tensors.
    """
    try:
        with CPU:
            tried = small()
    except UsageError:  # no small one can be made: the model itself has to do
        tried = model
    for makers in _combinations(tried):
        for first, second in (SIZES, FIXED):
            if failure_on(tried, _example(tried, makers, first)) is None:
                again = failure_on(tried, _example(tried, makers, second)) is None
                sizes = (first, second) if again else (first,)
                return tuple(_example(model, makers, size) for size in sizes)
    makers = next(_combinations(tried))
    error = failure_on(tried, _example(tried, makers, SIZES[0]))
    raise UsageError(
        f"no input was found that {type(model).__name__} accepts",
        detail=f"given {', '.join(makers)}: {cause_of(error)}" if error else "",
        hint="pass --input file.py:function",
    )


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
    asked = [name for name in names if name in WAYS and _asked(name, frame)]
    mask = names.get("encoder_attention_mask")
    if mask is not None and mask.default is None:
        asked.remove(mask.name)  # a mask of ones says nothing
    ways = {name: WAYS[name] for name in asked}
    for choice in product(*ways.values()):
        yield dict(zip(ways, choice, strict=True))


def _asked(name: str, frame: DenoiserSize) -> bool:
    """Return whether a model of this configuration reads an argument."""
    if name == "class_labels":
        return frame.get("num_class_embeds", "num_embeds_ada_norm") > 0
    if name == "added_cond_kwargs":
        return bool(frame.config.get("addition_embed_type"))
    if name == "guidance":
        return bool(frame.config.get("guidance_embeds"))
    if name == "encoder_hidden_states":
        return _text_width(frame) > 0
    return True


def _text_width(frame: DenoiserSize) -> int:
    return frame.get(
        "encoder_hid_dim",
        "joint_attention_dim",
        "caption_channels",
        "text_embed_dim",
        "text_dim",
        "cap_feat_dim",
        "cross_attention_dim",
        "encoder_hidden_size",
    )


def _latent(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.get("in_channels", default=4), frame.side, frame.side))


def _film(frame: DenoiserSize) -> torch.Tensor:
    channels = frame.get("in_channels", default=4)
    return normal_noise((frame.batch, channels, 3, frame.side, frame.side))


def _patches(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.side, frame.get("in_channels", default=4)))


def _text(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.tokens, _text_width(frame)), seed=1)


def _times(frame: DenoiserSize) -> torch.Tensor:
    return torch.arange(frame.batch, device=CPU) * 211 + 101


def _conditions(frame: DenoiserSize) -> dict[str, torch.Tensor]:
    """Return SDXL's pooled text and its six numbers about sizes and crops."""
    times = 6 * frame.get("addition_time_embed_dim")
    pooled = frame.get("projection_class_embeddings_input_dim") - times
    return {
        "text_embeds": normal_noise((frame.batch, max(pooled, 1)), seed=2),
        "time_ids": random_ids((frame.batch, 6), 64).float(),
    }


def _labels(frame: DenoiserSize) -> torch.Tensor:
    return random_ids((frame.batch,), frame.get("num_class_embeds", "num_embeds_ada_norm"))


def _hint(frame: DenoiserSize) -> torch.Tensor:
    """Return a control image: eight times the side of the latents."""
    channels = frame.get("conditioning_channels", default=3)
    return normal_noise((frame.batch, channels, 8 * frame.side, 8 * frame.side), seed=3)


def _places(rows: Callable[[DenoiserSize], int]) -> ArgumentMaker:
    """Return places of tokens in three dimensions, (rows, 3)."""
    return lambda frame: torch.arange(3.0 * rows(frame), device=CPU).view(rows(frame), 3) % 7


WAYS: Mapping[str, tuple[ArgumentMaker, ...]] = {
    "sample": (_latent, _film),
    "hidden_states": (_latent, _patches, _film),
    "timestep": (_times, lambda frame: _times(frame) / 1000),
    "encoder_hidden_states": (_text,),
    "pooled_projections": (
        lambda frame: normal_noise((frame.batch, frame.get("pooled_projection_dim")), seed=4),
    ),
    "class_labels": (_labels,),
    "added_cond_kwargs": (_conditions,),
    "controlnet_cond": (_hint,),
    "guidance": (lambda frame: torch.full((frame.batch,), 3.5, device=CPU),),
    "img_ids": (_places(lambda frame: frame.side),),
    "txt_ids": (_places(lambda frame: frame.tokens),),
    "encoder_attention_mask": (
        lambda frame: torch.ones(frame.batch, frame.tokens, dtype=torch.int64, device=CPU),
    ),
}

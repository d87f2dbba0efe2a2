"""Arguments that models of transformers take beside images and sounds, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from rebasin_cli.models.transformers.example_size import ExampleSize, TensorMaker, configurations_in
from rebasin_cli.models.transformers.transformers_audio import channel_wave, clip, frames, mel, wave
from rebasin_cli.models.transformers.transformers_images import grid, image, patches, sides, video
from rebasin_cli.models.trial_run import CPU, moved_to, normal_noise, quiet, random_ids

# What a text has in the place of other media, and the method that says what is put there.
MEDIA = {
    "image": (
        ("image_token_id", "image_token_index", "img_context_token_id"),
        "get_image_features",
    ),
    "audio": (("audio_token_id", "audio_token_index", "speech_token_id"), "get_audio_features"),
}
ArgumentForms = Mapping[str, Mapping[str, TensorMaker]]  # medium -> the arguments that carry it


def tokens(frame: ExampleSize, length: int) -> torch.Tensor:
    """Return ordinary ids of the text vocabulary."""
    text = _text_config(frame.model.config)
    fields = [
        pair for part in configurations_in(frame.model.config, ()) for pair in vars(part).items()
    ]
    special = [v for k, v in fields if k.endswith(("token_id", "token_index"))]
    flat = [v for item in special for v in (item if isinstance(item, list) else [item])]
    below = getattr(text, "vocab_size", None) or frame.get("vocab_size", "n_tokens", default=2)
    chosen_from = (2,) * (
        "MultipleChoice" in type(frame.model).__name__
    )  # answers to each question
    return random_ids((frame.batch, *chosen_from, length), below, avoid=(0, 1, 2, 3, *flat))


def _text_config(config: Any) -> Any:
    """Return the configuration of what reads the text: of two, the encoder."""
    try:
        return config.get_text_config()
    except ValueError:
        return getattr(config, "text_encoder", config)


def _boxes(frame: ExampleSize) -> torch.Tensor:
    """Return boxes (batch, length, 4) of ids that a position table knows."""
    corners = torch.tensor([3, 5, 11, 17], device=CPU)
    offsets = random_ids((frame.batch, frame.length, 1), 8)
    return corners + offsets


def text_with(frame: ExampleSize, media: ArgumentForms) -> torch.Tensor:
    """Return a text and then, for each medium, as many of its tokens as the model makes of it."""
    pieces = [_ended(frame, tokens(frame, frame.length))]
    for medium, form in media.items():
        token = placeholder(frame, medium)
        if token or "image_embeds_position_mask" in form:
            count = _rows(frame, medium, form)
            pieces.append(torch.full((frame.batch, count), token, device=CPU))
    return torch.cat(pieces, dim=1)


def _ended(frame: ExampleSize, text: torch.Tensor) -> torch.Tensor:
    """Return a text that ends with the token at which a model looks for its summary.

    Without it CLIP takes the first place, at which no attention is paid to any other.
    """
    ends = (getattr(module, "eos_token_id", None) for module in frame.model.modules())
    below = getattr(_text_config(frame.model.config), "vocab_size", 0)
    known = [end for end in ends if isinstance(end, int) and 0 <= end < below]
    if known:
        text[:, -1] = known[0]
    return text


def token_kinds(frame: ExampleSize, media: ArgumentForms) -> torch.Tensor:
    """Return which tokens of such a text are an image's: 1 there, otherwise 0."""
    return (text_with(frame, media) == placeholder(frame, "image")).int()


def text_mask(frame: ExampleSize, media: ArgumentForms) -> torch.Tensor:
    """Return that every token of such a text is one, for models that read their mask."""
    return torch.ones_like(text_with(frame, media))


def placeholder(frame: ExampleSize, medium: str) -> int:
    """Return the id that stands for a piece of a medium in a text, 0 if there is none."""
    return frame.get(*MEDIA[medium][0])


def _rows(frame: ExampleSize, medium: str, form: Mapping[str, TensorMaker]) -> int:
    """Return how many vectors the model makes of one image or sound.

    That part of it is run, unless it turns a grid into a list, which needs its values.
    """
    device = next(frame.model.parameters()).device
    if "image_grid_thw" in form and device.type == "meta":
        merged = frame.seen("spatial_merge_size", "merge_size", default=1) ** 2
        return int(grid(frame)[0].prod()) // merged
    if "image_embeds_position_mask" in form:
        return frame.get("latent_query_num")
    method = _method(frame.model, MEDIA[medium][1])
    if method is None:  # one token is enough: the model itself makes room for the rest
        return 1
    known = inspect.signature(method).parameters
    inputs = {name: moved_to(device, make(frame)) for name, make in form.items()}
    named = {name: value for name, value in inputs.items() if name in known}
    with torch.no_grad(), quiet(), device:
        found = method(**named) if named else method(*inputs.values())
    for name in ("pooler_output", "last_hidden_state"):
        found = found if getattr(found, name, None) is None else getattr(found, name)
    rows = found if isinstance(found, (list, tuple)) else [found]
    return int(sum(row.numel() // row.shape[-1] for row in rows)) // frame.batch


def _method(model: Any, name: str) -> Any:
    """Return a method of a model, or of the first part that has it, if one has."""
    found = (getattr(part, name) for part in model.modules() if hasattr(part, name))
    return next(found, None)


def _series(frame: ExampleSize) -> torch.Tensor:
    """Return time series (batch, time, channels)."""
    return normal_noise((frame.batch, frame.get("context_length"), frame.get("num_input_channels")))


def _zeros(frame: ExampleSize) -> torch.Tensor:
    return tokens(frame, frame.length) * 0


def _global_attention(frame: ExampleSize) -> torch.Tensor:
    """Return that the first token sees all others, by the layers which only such tokens use."""
    mask = _zeros(frame)
    mask[:, 0] = 1
    return mask


def _queries(frame: ExampleSize) -> torch.Tensor:
    """Return vectors (batch, length, width) as an embedding would."""
    width = frame.get("hidden_size", "d_model", "hidden_dim", default=8)
    return normal_noise((frame.batch, frame.length, width))


WAYS: Mapping[str, tuple[TensorMaker, ...]] = {
    "input_ids": (lambda frame: tokens(frame, frame.length),),
    "decoder_input_ids": (lambda frame: tokens(frame, frame.target),),
    "qformer_input_ids": (lambda frame: tokens(frame, frame.length),),
    "global_attention_mask": (_global_attention,),
    "bbox": (_boxes,),
    "pixel_values": (image, video, patches),
    "image_grid_thw": (grid,),
    "grid_thw": (grid,),
    "image_sizes": (lambda frame: torch.tensor([sides(frame)] * frame.batch, device=CPU),),
    "mm_token_type_ids": (_zeros,),
    "past_values": (_series,),
    "pixel_values_videos": (video,),
    "input_features": (mel, frames),
    "input_values": (wave, channel_wave, clip),
}

# Made only for a model that cannot do without.
REQUIRED: Mapping[str, TensorMaker] = {
    "attention_mask": lambda frame: _zeros(frame) + 1,
    "token_type_ids": _zeros,
    "query_embeds": _queries,
    "inputs_embeds": _queries,
    "hidden_states": _queries,
    "noise_embeds": _queries,
    "context_hidden_states": _queries,
    "past_observed_mask": lambda frame: torch.ones_like(_series(frame)),
    "past_values_padding": lambda frame: torch.zeros_like(_series(frame)),
}

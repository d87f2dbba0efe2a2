"""Arguments of diffusers' models: how each may be made, from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rebasin_cli.models.trial_run import CPU, normal_noise, random_ids

IMAGE_TEXT = 512  # tokens of text that Wan looks for behind those of a picture
STEPS = 256  # numbers of a sound for each place on the side of a picture: whole steps of encoders


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

    @property
    def channels(self) -> int:
        """Of a picture or its latents."""
        return self.get("in_channels", "encoder_in_channels", default=4)


ArgumentMaker = Callable[[DenoiserSize], Any]


def asks(frame: DenoiserSize, name: str, names: Mapping[str, object]) -> bool:
    """Return whether a model of a configuration reads an argument. names: all that it takes."""
    config = frame.config
    if name in ("num_frames", "height", "width"):
        return {"num_frames", "height", "width"} <= names.keys()
    needs: Mapping[str, bool] = {
        "class_labels": _classes(frame) > 0,
        "added_cond_kwargs": bool(config.get("addition_embed_type")),
        "guidance": bool(config.get("guidance_embeds")),
        "encoder_hidden_states": _text_width(frame) > 0,
        "encoder_hidden_states_image": frame.get("image_dim") > 0,
        "padding_mask": bool(config.get("concat_padding_mask")),
        "image_rotary_emb": bool(config.get("use_rotary_positional_embeddings", True)),
    }
    return needs.get(name, True)


def _classes(frame: DenoiserSize) -> int:
    return frame.get("num_class_embeds", "num_embeds_ada_norm")


def _text_width(frame: DenoiserSize) -> int:
    return frame.get(
        "encoder_hid_dim",
        "joint_attention_dim",
        "caption_channels",
        "text_embed_dim",
        "text_dim",
        "cap_feat_dim",
        "cross_attention_input_dim",
        "context_in_dim",
        "cross_attention_dim",
        "encoder_hidden_size",
    )


def _latent(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.channels, frame.side, frame.side))


def _film(frames: int) -> ArgumentMaker:
    """Return a film; of few frames, what shortens time in steps of 4 or 8 sees only the first."""
    return lambda frame: normal_noise((frame.batch, frame.channels, frames, frame.side, frame.side))


def _frames(frame: DenoiserSize) -> torch.Tensor:
    """Return a film whose frames come before the channels."""
    return normal_noise((frame.batch, 4, frame.channels, frame.side, frame.side))


def _patches(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.side, frame.channels))


def _sound(frame: DenoiserSize) -> torch.Tensor:
    channels = frame.get("audio_channels", "in_channels", "num_channels", default=1)
    return normal_noise((frame.batch, channels, STEPS * frame.side))


def _short_sound(frame: DenoiserSize) -> torch.Tensor:
    return normal_noise((frame.batch, frame.channels, frame.side))


def _rotation(part: int) -> ArgumentMaker:
    """Return cosines and sines, the same at all places, of some of the dims of a head.

    Pipelines give models that take them so: without them, queries and keys of any order would do.
    """

    def make(frame: DenoiserSize) -> tuple[torch.Tensor, torch.Tensor]:
        angles = normal_noise((1, frame.get("attention_head_dim", default=8) // part), seed=7)
        return angles.cos(), angles.sin()

    return make


def _text(frame: DenoiserSize) -> torch.Tensor:
    tokens = frame.get("max_text_seq_length", default=frame.tokens)
    tokens = IMAGE_TEXT if frame.get("image_dim") else tokens
    return normal_noise((frame.batch, tokens, _text_width(frame)), seed=1)


def _times(frame: DenoiserSize) -> torch.Tensor:
    return torch.arange(frame.batch, device=CPU) * 211 + 101


def _fractions(frame: DenoiserSize) -> torch.Tensor:
    return _times(frame) / 1000


def _conditions(frame: DenoiserSize) -> dict[str, torch.Tensor]:
    """Return SDXL's pooled text and its six numbers about sizes and crops."""
    times = 6 * frame.get("addition_time_embed_dim")
    pooled = frame.get("projection_class_embeddings_input_dim") - times
    return {
        "text_embeds": normal_noise((frame.batch, max(pooled, 1)), seed=2),
        "time_ids": random_ids((frame.batch, 6), 64).float(),
    }


def _hint(frame: DenoiserSize) -> torch.Tensor:
    """Return a control image: eight times the side of the latents."""
    channels = frame.get("conditioning_channels", default=3)
    return normal_noise((frame.batch, channels, 8 * frame.side, 8 * frame.side), seed=3)


def _places(rows: Callable[[DenoiserSize], int]) -> ArgumentMaker:
    """Return places of tokens, (rows, axes of the rotary positions)."""

    def make(frame: DenoiserSize) -> torch.Tensor:
        axes: Sequence[int] = frame.config.get("axes_dims_rope") or (0, 0, 0)
        count = rows(frame) * len(axes)
        return torch.arange(float(count), device=CPU).view(-1, len(axes)) % 7

    return make


def _numbers(count: int) -> ArgumentMaker:
    """Return some whole numbers for each picture, as sizes and crops are."""
    return lambda frame: random_ids((frame.batch, count), 64).float()


def _vector(*names: str) -> ArgumentMaker:
    return lambda frame: normal_noise((frame.batch, frame.get(*names)), seed=4)


WAYS: Mapping[str, tuple[ArgumentMaker, ...]] = {
    "sample": (_latent, _film(3), _film(9), _frames, _sound),
    "hidden_states": (_latent, _patches, _film(3), _frames, _short_sound),
    "timestep": (_times, _fractions),
    "encoder_hidden_states": (_text,),
    "encoder_hidden_states_image": (
        lambda frame: normal_noise((frame.batch, 5, frame.get("image_dim")), seed=5),
    ),
    "pooled_projections": (_vector("pooled_projection_dim"),),
    "global_hidden_states": (
        lambda frame: normal_noise((frame.batch, 1, frame.get("global_states_input_dim")), seed=6),
    ),
    "class_labels": (lambda frame: random_ids((frame.batch,), _classes(frame)),),
    "added_cond_kwargs": (_conditions,),
    "added_time_ids": (_numbers(3),),
    "controlnet_cond": (_hint, _latent, _patches),
    "guidance": (lambda frame: torch.full((frame.batch,), 3.5, device=CPU),),
    "img_ids": (_places(lambda frame: frame.side),),
    "txt_ids": (_places(lambda frame: frame.tokens),),
    "img_shapes": (lambda frame: [[(1, 4, frame.side // 4)]] * frame.batch,),
    **dict.fromkeys(("original_size", "target_size", "crop_coords"), (_numbers(2),)),
    "num_frames": (lambda _: 2,),
    "height": (lambda _: 2,),
    "width": (lambda frame: frame.side // 4,),
    **dict.fromkeys(("image_rotary_emb", "rotary_embedding"), (_rotation(2), _rotation(1))),
    "padding_mask": (lambda frame: torch.zeros(1, 1, frame.side, frame.side, device=CPU),),
    "encoder_attention_mask": (
        lambda frame: torch.ones(frame.batch, frame.tokens, dtype=torch.int64, device=CPU),
    ),
}

"""Arguments that models of transformers take, by name, made from their configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rebasin_cli.models.attempt import CPU, ids, noise, on, quiet


@dataclass(frozen=True)
class Frame:
    """A model and how large its example is: batch, ids of a text, ids that a decoder reads."""

    model: Any
    batch: int
    length: int
    target: int

    def get(self, *names: str, default: int = 0) -> int:
        """Return the first of the fields that the configuration or one inside it sets."""
        for name in names:
            for config in _tree(self.model.config):
                value = getattr(config, name, None)
                value = value[0] if isinstance(value, (list, tuple)) and value else value
                if isinstance(value, int) and value > 0:
                    return value
        return default


Maker = Callable[[Frame], torch.Tensor]


def _tree(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it."""
    yield config
    for name in getattr(config, "sub_configs", ()):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _tree(inner)


def _tokens(frame: Frame, length: int) -> torch.Tensor:
    """Return ordinary ids of the text vocabulary."""
    text = _text_config(frame.model.config)
    special = [v for k, v in text.to_dict().items() if k.endswith(("token_id", "token_index"))]
    flat = [v for item in special for v in (item if isinstance(item, list) else [item])]
    below = getattr(text, "vocab_size", None) or frame.get("vocab_size", "n_tokens", default=2)
    return ids((frame.batch, length), below, (0, 1, 2, 3, *flat))


def _text_config(config: Any) -> Any:
    """Return the configuration of what reads the text: of two, the encoder."""
    try:
        return config.get_text_config()
    except ValueError:
        return getattr(config, "text_encoder", config)


def _boxes(frame: Frame) -> torch.Tensor:
    """Return boxes (batch, length, 4) of ids that a position table knows."""
    corners = torch.tensor([3, 5, 11, 17], device=CPU)
    offsets = ids((frame.batch, frame.length, 1), 8)
    return corners + offsets


def text_with_image(frame: Frame, picture: Mapping[str, Maker]) -> torch.Tensor:
    """Return a text and then one image's worth of image tokens, as many as the model makes."""
    count = _grid_tokens(frame) if "image_grid_thw" in picture else _feature_rows(frame, picture)
    image = torch.full((frame.batch, count), image_token(frame), device=CPU)
    return torch.cat([_tokens(frame, frame.length), image], dim=1)


def token_kinds(frame: Frame, picture: Mapping[str, Maker]) -> torch.Tensor:
    """Return which tokens of such a text are the image's: 1 there, otherwise 0."""
    return (text_with_image(frame, picture) == image_token(frame)).int()


def image_token(frame: Frame) -> int:
    """Return the id that stands for a piece of an image in a text, 0 if there is none."""
    return frame.get("image_token_id", "image_token_index", "img_context_token_id")


def _grid_tokens(frame: Frame) -> int:
    """Return how many tokens one image's grid of patches becomes.

    Counted, not run: these models turn the grid into a list, which needs its values.
    """
    merged = frame.get("spatial_merge_size", default=1) ** 2
    return int(_grid(frame)[0].prod()) // merged


def _feature_rows(frame: Frame, picture: Mapping[str, Maker]) -> int:
    """Run the part of the model that sees, and return how many vectors it makes of an image."""
    device = next(frame.model.parameters()).device
    inputs = {name: on(device, make(frame)) for name, make in picture.items()}
    with torch.no_grad(), quiet(), device:
        found = frame.model.get_image_features(**inputs)
    found = getattr(found, "pooler_output", found)
    rows = found if isinstance(found, (list, tuple)) else [found]
    return int(sum(row.numel() // row.shape[-1] for row in rows)) // frame.batch


def _image(frame: Frame, *frames: int) -> torch.Tensor:
    channels = frame.get("num_channels", "in_channels", "in_chans", default=3)
    return noise((frame.batch, *frames, channels, *_sides(frame)))


def _sides(frame: Frame) -> tuple[int, int]:
    """Return height and width of an image; some models want other than squares."""
    for config in _tree(frame.model.config):
        value = getattr(config, "image_size", None)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return value[0], value[1]
    side = frame.get("image_size", "img_size", default=64)
    return side, side


def patches(frame: Frame) -> torch.Tensor:
    """Return the patches of all images in a row, as models for images of any size take them."""
    channels = frame.get("num_channels", "in_channels", "in_chans", default=3)
    time = frame.get("temporal_patch_size", default=1)
    values = channels * time * frame.get("patch_size") ** 2
    return noise((int(_grid(frame).prod(dim=1).sum()), values))


def _grid(frame: Frame) -> torch.Tensor:
    """Return frames, rows and columns of patches of each image, (batch, 3)."""
    columns = 4 * (frame.batch % 2 + 1)
    return torch.tensor([[1, 4, columns]] * frame.batch, device=CPU)


def _series(frame: Frame) -> torch.Tensor:
    """Return time series (batch, time, channels)."""
    return noise((frame.batch, frame.get("context_length"), frame.get("num_input_channels")))


def _video(frame: Frame) -> torch.Tensor:
    return _image(frame, frame.get("num_frames", "frames_per_clip", default=4))


def _mel(frame: Frame) -> torch.Tensor:
    """Return spectra (batch, bins, time): whisper's length is fixed."""
    time = 2 * frame.get("max_source_positions", default=32)
    return noise((frame.batch, frame.get("num_mel_bins", "feature_size", default=80), time))


def _frames(frame: Frame) -> torch.Tensor:
    """Return spectra (batch, time, bins)."""
    names = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins", "input_dim")
    return noise((frame.batch, 8 * frame.length, frame.get(*names, "feature_size", default=80)))


def _clip(frame: Frame) -> torch.Tensor:
    """Return spectra (batch, time, bins) of the length that a position table has."""
    return noise((frame.batch, frame.get("max_length", default=64), frame.get("num_mel_bins")))


def _wave(frame: Frame) -> torch.Tensor:
    return noise((frame.batch, 400 * frame.length))


def _channel_wave(frame: Frame) -> torch.Tensor:
    return noise((frame.batch, 1, 400 * frame.length))


WAYS: Mapping[str, tuple[Maker, ...]] = {
    "input_ids": (lambda frame: _tokens(frame, frame.length),),
    "decoder_input_ids": (lambda frame: _tokens(frame, frame.target),),
    "qformer_input_ids": (lambda frame: _tokens(frame, frame.length),),
    "bbox": (_boxes,),
    "pixel_values": (_image, _video, patches),
    "image_grid_thw": (_grid,),
    "grid_thw": (_grid,),
    "image_sizes": (lambda frame: torch.tensor([_sides(frame)] * frame.batch, device=CPU),),
    "mm_token_type_ids": (lambda frame: _tokens(frame, frame.length) * 0,),
    "past_values": (_series,),
    "pixel_values_videos": (_video,),
    "input_features": (_mel, _frames),
    "input_values": (_wave, _channel_wave, _clip),
}

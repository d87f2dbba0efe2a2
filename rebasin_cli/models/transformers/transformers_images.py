"""Ways in which models of transformers take an image, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rebasin_cli.models.transformers.example_size import (
    SEEING,
    ExampleSize,
    TensorMaker,
    configurations_in,
)
from rebasin_cli.models.trial_run import CPU, normal_noise

ImageForm = Mapping[str, TensorMaker]


def image(frame: ExampleSize, *frames: int) -> torch.Tensor:
    """Return images (batch, *frames, channels, height, width)."""
    return normal_noise((frame.batch, *frames, _channels(frame), *sides(frame)))


def sides(frame: ExampleSize) -> tuple[int, int]:
    """Return height and width of an image; some models want other than squares."""
    for config in configurations_in(frame.model.config, SEEING):
        value = getattr(config, "image_size", None)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return value[0], value[1]
    side = frame.seen("image_size", "img_size", default=64)
    return side, side


def patches(frame: ExampleSize) -> torch.Tensor:
    """Return the patches of all images in a row, as models for images of any size take them."""
    time = frame.seen("temporal_patch_size", default=1)
    return normal_noise((int(grid(frame).prod(dim=1).sum()), time * _patch(frame)))


def video(frame: ExampleSize) -> torch.Tensor:
    """Return videos (batch, time, channels, height, width)."""
    return image(frame, frame.get("num_frames", "frames_per_clip", default=4))


def grid(frame: ExampleSize) -> torch.Tensor:
    """Return frames, rows and columns of patches of each image, (batch, 3)."""
    columns = 4 * (frame.batch % 2 + 1)
    return torch.tensor([[1, 4, columns]] * frame.batch, device=CPU)


def _pair_patches(frame: ExampleSize) -> torch.Tensor:
    """Return patches of two frames each, where no field says so."""
    return normal_noise((int(grid(frame).prod(dim=1).sum()), 2 * _patch(frame)))


def _square_patches(frame: ExampleSize) -> torch.Tensor:
    """Return the same as small images, (patches, channels, height, width)."""
    side = frame.seen("patch_size")
    return normal_noise((int(grid(frame).prod(dim=1).sum()), _channels(frame), side, side))


def _channels(frame: ExampleSize) -> int:
    return frame.seen("num_channels", "in_channels", "in_chans", default=3)


def _patch(frame: ExampleSize) -> int:
    """Return how many values a patch has."""
    return int(_channels(frame) * frame.seen("patch_size", default=8) ** 2)


def _packed(frame: ExampleSize) -> torch.Tensor:
    """Return 16 patches of each image, (batch, patches, values)."""
    return normal_noise((frame.batch, 16, _patch(frame)))


def _numbered(frame: ExampleSize) -> torch.Tensor:
    """Return the same with row and column, from 1, before the values."""
    places = 1 + _positions(frame)
    return torch.cat([places.float(), _packed(frame)], dim=2)


def _positions(frame: ExampleSize) -> torch.Tensor:
    """Return row and column of the 16 patches, (batch, patches, 2)."""
    four = torch.arange(4, device=CPU)
    return torch.cartesian_prod(four, four).repeat(frame.batch, 1, 1)


def _sizes(frame: ExampleSize) -> torch.Tensor:
    return torch.tensor([sides(frame)] * frame.batch, device=CPU)


def _shapes(frame: ExampleSize) -> torch.Tensor:
    """Return rows and columns of the 16 patches, (batch, 2)."""
    return torch.tensor([[4, 4]] * frame.batch, device=CPU)


def _tall(frame: ExampleSize) -> torch.Tensor:
    """Return the sizes (batch, 2) of images that two tiles cover, one above the other."""
    height, width = sides(frame)
    return torch.tensor([[2 * height, width]] * frame.batch, device=CPU)


def _tiles(frame: ExampleSize) -> torch.Tensor:
    """Return such an image as a small whole and its two tiles."""
    return image(frame, 3)


def _ones(*sizes: int) -> TensorMaker:
    return lambda frame: torch.ones((frame.batch, *sizes), dtype=torch.int64, device=CPU)


def _whole_mask(*frames: int) -> TensorMaker:
    """Return how a mask is made that hides no pixel, (batch, *frames, height, width)."""
    return lambda frame: torch.ones((frame.batch, *frames, *sides(frame)), device=CPU).bool()


def _media(frame: ExampleSize) -> torch.Tensor:
    """Return images in tiles, (batch, images, tiles, channels, height, width)."""
    return image(frame, 1, frame.seen("max_num_tiles", default=1))


def _tile_mask(frame: ExampleSize) -> torch.Tensor:
    return torch.ones((frame.batch, 1, frame.seen("max_num_tiles", default=1)), device=CPU).long()


def _attended(frame: ExampleSize) -> torch.Tensor:
    """Return that the text and its one image token see all tiles, (batch, ids, images, tiles)."""
    tiles = frame.seen("max_num_tiles", default=1)
    return torch.ones((frame.batch, frame.length + 1, 1, tiles), device=CPU).long()


def _seen_by_all(frame: ExampleSize) -> torch.Tensor:
    """Return that every id of the text sees the one image, (batch, length, images)."""
    return torch.ones((frame.batch, frame.length, 1), dtype=torch.int64, device=CPU)


def _places(frame: ExampleSize) -> torch.Tensor:
    """Return which ids of a text are an image's: as many as there are queries, at the end."""
    text = torch.zeros((frame.batch, frame.length), dtype=torch.int64, device=CPU)
    return torch.cat([text, torch.ones((frame.batch, frame.get("latent_query_num"))).long()], 1)


def _regions(field: str) -> TensorMaker:
    """Return how features of 5 regions are made, (batch, 5, what the field says)."""
    return lambda frame: normal_noise((frame.batch, 5, frame.get(field, default=4)))


def _hidden_patches(frame: ExampleSize) -> torch.Tensor:
    """Return that every other patch of images or videos is hidden, (batch, patches)."""
    counts = (getattr(part, "num_patches", None) for part in frame.model.modules())
    rows, columns = (side // max(1, frame.seen("patch_size")) for side in sides(frame))
    count = next((n for n in counts if isinstance(n, int)), rows * columns)
    return (torch.arange(count, device=CPU) % 2 == 0).expand(frame.batch, -1)


def _merges(frame: ExampleSize) -> torch.Tensor:
    return torch.ones(frame.batch, dtype=torch.int64, device=CPU)


# Every argument of a form is needed. What says more about an image stands first: an argument that
# a model only needs for one form of images is not missed by the others.
PICTURES: tuple[ImageForm, ...] = (
    {
        "pixel_values": _media,
        "aspect_ratio_ids": _ones(1),
        "aspect_ratio_mask": _tile_mask,
        "cross_attention_mask": _attended,
    },
    {"pixel_values": patches, "image_grid_thw": grid},
    {"pixel_values": _pair_patches, "image_grid_thw": grid},
    {"pixel_values": _square_patches, "image_grid_thw": grid},
    {"pixel_values": _packed, "spatial_shapes": _shapes, "pixel_attention_mask": _ones(16)},
    {"pixel_values": _packed, "pixel_attention_mask": _ones(16)},
    {"pixel_values": _packed, "pixel_position_ids": _positions},
    {"pixel_values": _packed, "image_position_ids": _positions},
    {"pixel_values": _tiles, "image_sizes": _tall},
    {"pixel_values": image, "image_sizes": _sizes},
    {"flattened_patches": _numbered, "image_embeds_position_mask": _places},
    {"flattened_patches": _numbered},
    {"pixel_values": image, "image_embeds_position_mask": _places},
    {"pixel_values": lambda frame: image(frame, 1), "image_attention_mask": _seen_by_all},
    {"image_patches": _packed},
    {"pixel_values": lambda frame: image(frame, 1), "pixel_attention_mask": _whole_mask(1)},
    {"pixel_values": image, "pixel_mask": _whole_mask()},
    {"pixel_values": lambda frame: image(frame, 1)},
    {"pixel_values": lambda frame: image(frame, 2)},
    {"pixel_values": image, "bool_masked_pos": _hidden_patches},
    {"pixel_values": video, "bool_masked_pos": _hidden_patches},
    {"pixel_values": image},
    {"pixel_values": video},
    {"pixel_values": patches, "grid_thw": grid, "merge_sizes": _merges},
    {"pixel_values": patches, "grid_thw": grid},
    {"pixel_values": _pair_patches, "grid_thw": grid},
    {"pixel_values": _square_patches, "grid_thw": grid},
    {"hidden_states": patches, "grid_thw": grid},
    {"hidden_states": _pair_patches, "grid_thw": grid},
    {"visual_feats": _regions("visual_feat_dim"), "visual_pos": _regions("visual_pos_dim")},
    {"visual_embeds": _regions("visual_embedding_dim")},
    {"pixel_values_videos": video},
)

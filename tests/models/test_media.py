"""Models that see or hear get images or sound together with a text that has room for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_cli.models.coverage import parameters_reached
from rebasin_cli.models.subject import Example
from rebasin_cli.models.transformers.shrink import shrink_subject
from rebasin_cli.models.transformers.transformers_models import config_subject

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, at import
transformers: Any = pytest.importorskip("transformers")

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 24, 24]}
CONFIGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llava": ({}, {"input_ids", "pixel_values"}),
    "llava_next": ({}, {"input_ids", "pixel_values", "image_sizes"}),
    "qwen2_vl": (
        {
            "text_config": {
                "hidden_size": 3584,
                "num_attention_heads": 28,
                "rope_parameters": MROPE,
            },
            "vision_config": {"hidden_size": 3584},
        },
        {"input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"},
    ),
    "idefics": ({}, {"input_ids", "pixel_values", "image_attention_mask"}),
    "kosmos-2": ({}, {"input_ids", "pixel_values", "image_embeds_position_mask"}),
    "siglip2": ({}, {"input_ids", "pixel_values", "spatial_shapes", "pixel_attention_mask"}),
    "fuyu": ({}, {"input_ids", "image_patches"}),
    "audioflamingo3": ({}, {"input_ids", "input_features", "input_features_mask"}),
    "qwen2_audio": (
        {},
        {"input_ids", "input_features", "feature_attention_mask", "attention_mask"},
    ),
}
UNREAD = {"llava": 0.2, "llava_next": 0.2}  # they read the last layer but one


def built(kind: str, fields: Mapping[str, Any]) -> tuple[Any, tuple[Example, ...]]:
    small = config_subject(kind, transformers.CONFIG_MAPPING[kind](**fields)).small
    assert small is not None
    model = small.build()
    return model, small.examples(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_all_media_are_fed_and_reach_their_towers(kind: str) -> None:
    fields, names = CONFIGS[kind]
    model, examples = built(kind, fields)
    assert set(examples[0].kwargs) == names
    for example in examples:
        model(**example.kwargs)
    assert parameters_reached(model, examples[0]) > 0.95 - UNREAD.get(kind, 0)


def test_a_text_has_as_many_places_for_an_image_as_the_model_makes_of_it() -> None:
    model, examples = built("llava", {})
    token = model.config.image_token_index
    patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    texts: list[Any] = [example.kwargs["input_ids"] for example in examples]
    counts = [(text == token).sum(1).tolist() for text in texts]
    assert counts == [[patches] * 2, [patches] * 3]


class Half(nn.Module):
    """Uses one of two layers of equal size unless it is given both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, near: torch.Tensor, far: torch.Tensor | None = None) -> dict[str, object]:
        return {"out": [self.near(near)] + ([self.far(far)] if far is not None else [])}


def test_reach_is_the_share_that_outputs_come_from() -> None:
    model, values = Half(), torch.ones(1, 4)
    assert parameters_reached(model, Example((values,))) == 0.5
    assert parameters_reached(model, Example((values, values))) == 1.0
    assert parameters_reached(model, Example(())) == 0.0


def test_reach_leaves_a_model_as_it_was() -> None:
    model = Half()
    model.near.weight.requires_grad_(False)
    assert parameters_reached(model, Example((torch.ones(1, 4),))) == 0.5
    assert [one.requires_grad for one in model.parameters()] == [False, True]
    assert all(tensor.grad is None for tensor in model.parameters())


@pytest.mark.slow
def test_a_norm_of_32_groups_still_divides_the_small_width() -> None:
    model, examples = built("mm-grounding-dino", {})
    norms = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    assert norms
    assert all(layer.num_channels % layer.num_groups == 0 for layer in norms)
    assert examples


def test_the_sizes_of_tiled_images_shrink_with_their_tiles() -> None:
    config = transformers.CONFIG_MAPPING["llava_next"]()
    side = config.vision_config.image_size
    small = shrink_subject(config)
    new = small.vision_config.image_size
    before = [[part // side for part in pair] for pair in config.image_grid_pinpoints]
    assert [[part // new for part in pair] for pair in small.image_grid_pinpoints] == before


def test_layers_that_are_read_are_among_those_that_stay() -> None:
    small = shrink_subject(transformers.CONFIG_MAPPING["vipllava"]())
    # Versions of the library differ in the name.
    (layers,) = (value for key, value in vars(small).items() if key.startswith("vision_feature_l"))
    assert len(layers) == 5
    depth = small.vision_config.num_hidden_layers
    assert all(-depth <= layer <= depth for layer in layers)

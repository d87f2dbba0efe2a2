"""The models in single files of Stable Diffusion, small and of the published sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.subject import Subject
from tests.library.diffusion import (
    CROSS,
    DIM,
    FOUR,
    PIECES,
    PLAIN,
    SD1,
    SD2,
    SDXL,
    SMALL_SD1,
    SMALL_SD2,
    SMALL_SDXL,
    SMALL_VAE,
    VAE,
)
from tests.library.entry import Fields, Model, hf
from tests.library.single_files.composed import Component, composed, layout_of
from tests.library.single_files.original_names import (
    attentive_blocks,
    clip_place,
    open_clip_place,
    unet_place,
    unet_rules,
    vae_place,
)
from tests.library.single_files.stored import Place

UNET, FIRST, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
EMBEDDERS = "conditioner.embedders."
SMALL_TEXT: Fields = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 98,
    "projection_dim": 24,
}
CLIP_L: Fields = {
    **SMALL_TEXT,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
OPEN_CLIP_H: Fields = {
    **SMALL_TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


BIG_G: Fields = {
    **SMALL_TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}
REFINER: Fields = {
    **SDXL,
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24],
    "down_block_types": [PLAIN[0], *CROSS[:1] * 2, PLAIN[0]],
    "up_block_types": [PLAIN[1], *CROSS[1:] * 2, PLAIN[1]],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
SMALL_REFINER: Fields = {
    **REFINER,
    **FOUR,
    "attention_head_dim": [4, 8, 16, 16],
    "transformer_layers_per_block": 2,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


def unet_of(fields: Fields) -> Component:
    """Return the U-Net of a file."""

    def places(names: Sequence[str]) -> Callable[[str], Place]:
        return partial(unet_place, rules=unet_rules(attentive_blocks(names)))

    return Component(partial(diffusers_subject, "unet", fields), UNET, places, optional=False)


def vae_of(fields: Fields) -> Component:
    """Return the autoencoder of a file."""
    return Component(partial(diffusers_subject, "vae", fields), FIRST, lambda names: vae_place)


def clip_of(fields: Fields, prefix: str) -> Component:
    """Return a text encoder that a file keeps as transformers does."""
    found = hf("clip_text_model", "CLIPTextModel", **fields, output_hidden_states=True)
    return Component(found.subject, prefix, lambda names: clip_place)


def open_clip_of(fields: Fields, prefix: str) -> Component:
    """Return a text encoder of OpenCLIP."""
    architecture = "CLIPTextModelWithProjection"
    found = hf("clip_text_model", architecture, **fields, output_hidden_states=True)
    return Component(found.subject, f"{prefix}model.", lambda names: open_clip_place)


def sd1(unet: Fields, vae: Fields, text: Fields) -> dict[str, Component]:
    """Return the models in a file of Stable Diffusion 1.x."""
    return {"unet": unet_of(unet), "vae": vae_of(vae), "text": clip_of(text, TEXT)}


def sd2(unet: Fields, vae: Fields, text: Fields) -> dict[str, Component]:
    """Return the models in a file of Stable Diffusion 2.x."""
    return {"unet": unet_of(unet), "vae": vae_of(vae), "text": open_clip_of(text, TEXT)}


def sdxl(unet: Fields, vae: Fields, text: Fields, other: Fields) -> dict[str, Component]:
    """Return the models in a file of Stable Diffusion XL."""
    return {
        "unet": unet_of(unet),
        "vae": vae_of(vae),
        "text": clip_of(text, f"{EMBEDDERS}0."),
        "text_g": open_clip_of(other, f"{EMBEDDERS}1."),
    }


def refiner(unet: Fields, vae: Fields, text: Fields) -> dict[str, Component]:
    """Return the models in a file of the refiner of Stable Diffusion XL."""
    return {
        "unet": unet_of(unet),
        "vae": vae_of(vae),
        "text": open_clip_of(text, f"{EMBEDDERS}0."),
    }


def held(name: str, components: Mapping[str, Component], sizes: Mapping[str, int]) -> Model:
    """Return what a file holds as a model that can be traced."""
    return Model(
        partial(composed, name, components), sizes=sizes, layout=partial(layout_of, components)
    )


def published(
    name: str, components: Mapping[str, Component], copy: Mapping[str, Component]
) -> Model:
    """Return the models of the published size, which are not run but for a small copy."""
    model = held(name, components, {})

    def found() -> Subject:
        return replace(composed(name, components), small=composed(f"{name} (small)", copy))

    return replace(model, subject=found)


SMALL_SIZES = {**PIECES, **DIM}
SMALL: Mapping[str, Mapping[str, Component]] = {
    "sd1": sd1(SMALL_SD1, SMALL_VAE, SMALL_TEXT),
    "sd2": sd2(SMALL_SD2, SMALL_VAE, SMALL_TEXT),
    "sdxl": sdxl(SMALL_SDXL, SMALL_VAE, SMALL_TEXT, SMALL_TEXT),
    "sdxl_refiner": refiner(SMALL_REFINER, SMALL_VAE, SMALL_TEXT),
}
PUBLISHED: Mapping[str, Mapping[str, Component]] = {
    "sd1": sd1(SD1, VAE, CLIP_L),
    "sd2": sd2(SD2, VAE, OPEN_CLIP_H),
    "sdxl": sdxl(SDXL, VAE, CLIP_L, BIG_G),
    "sdxl_refiner": refiner(REFINER, VAE, BIG_G),
}

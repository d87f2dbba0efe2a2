"""FLUX.1 and Stable Diffusion 3: transformers, as folders of diffusers and as single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.subject import Subject
from tests.library.diffusion import SMALL_VAE, VAE
from tests.library.entry import Entry, Fields, Model, diffuser, hf
from tests.library.single_files.composed import Component
from tests.library.single_files.entries import CLIP_LAYER, PLACES, VAE_GROUPS, text_groups
from tests.library.single_files.file_models import (
    BIG_G,
    CLIP_L,
    SMALL_TEXT,
    UNET,
    held,
    published,
    vae_of,
)
from tests.library.single_files.original_names import clip_place, flux_place, sd3_place, t5_place
from tests.library.single_files.stored import Place

FLUX: Fields = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
SMALL_FLUX: Fields = {
    **FLUX,
    "in_channels": 16,
    "num_layers": 3,
    "num_single_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 28,
    "pooled_projection_dim": 20,
    "axes_dims_rope": [2, 2, 4],
}
SD3: Fields = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SMALL_SD3: Fields = {
    **SD3,
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 7,  # with 4, the `2` in `linear_2` would be read as the number of a block
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 28,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 24,
}
LARGE: Fields = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432}
NORMED: Fields = {"qk_norm": "rms_norm"}
DUAL: Fields = {**NORMED, "dual_attention_layers": list(range(13)), "pos_embed_max_size": 384}
SMALL_DUAL: Fields = {**NORMED, "dual_attention_layers": [0, 1]}
VAE_16: Fields = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
T5: Fields = {
    "vocab_size": 99,
    "d_model": 4096,
    "d_kv": 64,
    "num_heads": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
SMALL_T5: Fields = {**T5, "d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 48, "num_layers": 3}
ENCODERS = "text_encoders."
Places = Callable[[str], Place]


def transformer_of(fields: Fields) -> Component:
    """Return the transformer of a file."""

    def places(names: Sequence[str]) -> Places:
        if fields["_class_name"] == FLUX["_class_name"]:
            return flux_place
        return partial(sd3_place, last=fields["num_layers"] - 1)

    return Component(
        partial(diffusers_subject, "transformer", fields), UNET, places, optional=False
    )


def _clip(fields: Fields, name: str) -> Component:
    kind = "CLIPTextModelWithProjection"
    found = hf("clip_text_model", kind, **fields, output_hidden_states=True)
    return Component(found.subject, f"{ENCODERS}{name}.", lambda names: clip_place)


def _t5(fields: Fields) -> Component:
    found = hf("t5", "T5EncoderModel", **fields, output_hidden_states=True)
    return Component(found.subject, f"{ENCODERS}t5xxl.", lambda names: t5_place)


def flux(transformer: Fields, vae: Fields, text: Fields, t5: Fields) -> dict[str, Component]:
    """Return the models in a file of FLUX.1."""
    return {
        "transformer": transformer_of(transformer),
        "vae": vae_of({**vae, **VAE_16}),
        "text": _clip(text, "clip_l"),
        "t5": _t5(t5),
    }


def sd3(
    transformer: Fields, vae: Fields, text: Fields, other: Fields, t5: Fields
) -> dict[str, Component]:
    """Return the models in a file of Stable Diffusion 3."""
    return {**flux(transformer, vae, text, t5), "text_g": _clip(other, "clip_g")}


OWN = r"(?:model\.diffusion_model\.)?"
DOUBLE = rf"{OWN}(?:transformer|double)_blocks\.(\d+)"
SINGLE = rf"{OWN}single_(?:transformer_)?blocks\.(\d+)"
JOINT = rf"{OWN}(?:transformer|joint)_blocks\.(\d+)"
FLUX_GROUPS = {
    rf"{DOUBLE}\.attn\.heads": r"head.\1",
    rf"{DOUBLE}\.attn\.vo": r"vo.\1",
    rf"{DOUBLE}\.(?:ff\.net\.0\.proj|img_mlp\.0)": r"hidden.\1",
    rf"{DOUBLE}\.(?:ff_context\.net\.0\.proj|txt_mlp\.0)": r"text.hidden.\1",
    rf"{SINGLE}\.heads": r"single.head.\1",
    rf"{SINGLE}\.vo": r"single.vo.\1",
    rf"{SINGLE}\.(?:proj_mlp|linear1)": r"single.hidden.\1",
    rf"{OWN}(?:time_text_embed\.timestep_embedder\.linear_1|time_in\.in_layer)": "time.inner",
    rf"{OWN}(?:time_text_embed\.text_embedder\.linear_1|vector_in\.in_layer)": "pooled.inner",
    rf"{OWN}(?:time_text_embed\.guidance_embedder\.linear_1|guidance_in\.in_layer)": (
        "guidance.inner"
    ),
    rf"{OWN}(?:time_text_embed\.timestep_embedder\.linear_2|time_in\.out_layer)": "time",
    rf"{OWN}time_text_embed\.stream": "time",
    rf"{OWN}stream": "stream",
}
SD3_GROUPS = {
    rf"{JOINT}\.(attn2?)\.heads": r"\2.head.\1",
    rf"{JOINT}\.(attn2?)\.(qk|vo)": r"\2.\3.\1",
    rf"{JOINT}\.(?:ff\.net\.0\.proj|x_block\.mlp\.fc1)": r"hidden.\1",
    rf"{JOINT}\.(?:ff_context\.net\.0\.proj|context_block\.mlp\.fc1)": r"text.hidden.\1",
    rf"{OWN}(?:time_text_embed\.timestep_embedder\.linear_1|t_embedder\.mlp\.0)": "time.inner",
    rf"{OWN}(?:time_text_embed\.text_embedder\.linear_1|y_embedder\.mlp\.0)": "pooled.inner",
    rf"{OWN}(?:time_text_embed\.timestep_embedder\.linear_2|t_embedder\.mlp\.2)": "time",
    rf"{OWN}time_text_embed\.stream": "time",
    rf"{OWN}stream": "context",
}
T5_START = r"text_encoders\.t5xxl\.transformer\.encoder\.block\."
TEXT_GROUPS = {
    **text_groups(r"text_encoders\.clip_l\.", CLIP_LAYER, "fc1", "clip_l"),
    **text_groups(r"text_encoders\.clip_g\.", CLIP_LAYER, "fc1", "clip_g"),
    rf"{T5_START}.*SelfAttention\.(?:heads|relative_attention_bias)": "t5.head",
    rf"{T5_START}heads": "t5.head",
    rf"{T5_START}(\d+)\.layer\.0\.SelfAttention\.(qk|vo)": r"t5.\2.\1",
    rf"{T5_START}(\d+)\.layer\.1\.DenseReluDense\.wi_0": r"t5.hidden.\1",
}
FLUX_COUNTED: Mapping[str, int | str] = {
    r"(?:single\.)?head\..*": "heads",
    r"(?:single\.)?vo\..*": "dim",
}
FLUX_HELD = {r".*_blocks.*": "dim"}
SD3_COUNTED: Mapping[str, int | str] = {r"attn2?\.(?:qk|vo)\..*": "dim"}
TEXT_COUNTED: Mapping[str, int | str] = {r"(?:clip_\w|t5)\.(?:qk|vo)\..*": "text_dim"}
FLUX_SIZES = {"heads": 24, "dim": 128}
SMALL_FLUX_SIZES = {"heads": 4, "dim": 8, "text_dim": 16}
SMALL_SD3_SIZES = {"dim": 8, "text_dim": 16}
EXTRA = {
    f"{ENCODERS}{{clip_l,clip_g}}.transformer.text_model.embeddings.position_ids?": "[~]",
    f"{ENCODERS}t5xxl.transformer.encoder.embed_tokens.weight?": "[~]",
}
ROTARY = """Rotary positions and the norms of queries and keys keep the order of the dims that these
    share; heads change places, text and picture together, and inside each the dims that values and
    the output share (vo). The dims of a head and their number: --set dim=, --set heads=."""
JOINED = """Heads change places, text and picture together, and inside each the dims that queries
    and keys share (qk) and those that values and the output share (vo). What is added to positions
    keeps its order; what is added to the text (context) moves."""
PARTS = """and, where the file has them, the autoencoder and the text encoders. None reads another
    but by what keeps its order: latents, and what the text encoders return at any layer."""


def folder_of(fields: Fields, copy: Fields) -> Model:
    """Return a transformer of the published size, which is not run but for a small copy."""

    def found() -> Subject:
        made = diffusers_subject("model", fields)
        return replace(made, small=diffusers_subject("copy", copy))

    return Model(found, lambda: fields)


def _small(fields: Fields, sizes: Mapping[str, int]) -> Model:
    return replace(diffuser(**fields), sizes=sizes)


def folder(name: str, models: str, about: str) -> Entry:
    """Return the entry of a transformer as diffusers names it, without models."""
    return Entry(
        name=name,
        about=f"The transformer of {models} as diffusers names it. {about}",
        description=f"diffusers transformer of {models}",
        needs="diffusers",
        variants=(),
    )


def single(name: str, models: str, about: str) -> Entry:
    """Return the entry of a single file, without models."""
    return Entry(
        name=name,
        about=f"Single files of {models} in the original layout: the transformer, {PARTS} {about}",
        description=f"single file of {models}, original layout",
        needs="diffusers",
        variants=(),
        places=PLACES,
        measured={r"norm\.vae\..*": {}},
        spelled={
            r"^model\.diffusion_model\.": "{,model.diffusion_model.}",
            r"^first_stage_model\.": "{first_stage_model.,vae.}",
        },
        extra=EXTRA,
    )


SMALL_SCHNELL: Fields = {**SMALL_FLUX, "guidance_embeds": False}
SMALL_SD3_NORMED: Fields = {**SMALL_SD3, **NORMED}
SMALL_SD3_DUAL: Fields = {**SMALL_SD3, **SMALL_DUAL}
SD3_LARGE: Fields = {**SD3, **LARGE, **NORMED}
SD3_DUAL: Fields = {**SD3, **DUAL}
TEXTS = (SMALL_TEXT, SMALL_TEXT, SMALL_T5)
LARGE_TEXTS = (CLIP_L, BIG_G, T5)
SMALL: Mapping[str, Mapping[str, Component]] = {
    "flux": flux(SMALL_FLUX, SMALL_VAE, SMALL_TEXT, SMALL_T5),
    "flux_schnell": flux(SMALL_SCHNELL, SMALL_VAE, SMALL_TEXT, SMALL_T5),
    "sd3": sd3(SMALL_SD3, SMALL_VAE, *TEXTS),
    "sd3_large": sd3(SMALL_SD3_NORMED, SMALL_VAE, *TEXTS),
    "sd3_dual": sd3(SMALL_SD3_DUAL, SMALL_VAE, *TEXTS),
}
PUBLISHED: Mapping[str, Mapping[str, Component]] = {
    "flux": flux(FLUX, VAE, CLIP_L, T5),
    "sd3": sd3(SD3, VAE, *LARGE_TEXTS),
    "sd3_large": sd3(SD3_LARGE, VAE, *LARGE_TEXTS),
    "sd3_dual": sd3(SD3_DUAL, VAE, *LARGE_TEXTS),
}
FLUX_MODELS = "FLUX.1"
SD3_KINDS: Mapping[str, tuple[str, Fields, Fields]] = {
    "sd3": ("Stable Diffusion 3", SD3, SMALL_SD3),
    "sd3_large": ("Stable Diffusion 3.5 large", SD3_LARGE, SMALL_SD3_NORMED),
    "sd3_dual": ("Stable Diffusion 3.5 medium", SD3_DUAL, SMALL_SD3_DUAL),
}


def sd3_entries(name: str) -> tuple[Entry, Entry]:
    """Return the entries of a kind of Stable Diffusion 3: of folders, and of single files."""
    models, large, small = SD3_KINDS[name]
    told = folder(f"{name}_transformer", models, JOINED)
    whole = single(name, models, JOINED)
    groups = {**SD3_GROUPS, **VAE_GROUPS, **TEXT_GROUPS}
    return (
        replace(
            told,
            variants=(_small(small, SMALL_SD3_SIZES),),
            larger=(folder_of(large, small),),
            groups=SD3_GROUPS,
            sizes={"dim": 64},
            counted=SD3_COUNTED,
            extra={"pos_embed.pos_embed?": "[~]"},
        ),
        replace(
            whole,
            variants=(held(name, SMALL[name], SMALL_SD3_SIZES),),
            larger=(published(name, PUBLISHED[name], SMALL[name]),),
            groups=groups,
            sizes={"dim": 64, "text_dim": 64},
            counted={**SD3_COUNTED, **TEXT_COUNTED},
            extra={**EXTRA, "{,model.diffusion_model.}pos_embed?": "[~]"},
        ),
    )


ENTRIES = (
    replace(
        folder("flux_transformer", FLUX_MODELS, ROTARY),
        variants=(_small(SMALL_FLUX, SMALL_FLUX_SIZES), _small(SMALL_SCHNELL, SMALL_FLUX_SIZES)),
        larger=(folder_of(FLUX, SMALL_FLUX),),
        groups=FLUX_GROUPS,
        sizes=FLUX_SIZES,
        counted=FLUX_COUNTED,
        held=FLUX_HELD,
    ),
    replace(
        single("flux", FLUX_MODELS, ROTARY),
        variants=tuple(
            held(name, SMALL[name], SMALL_FLUX_SIZES) for name in ("flux", "flux_schnell")
        ),
        larger=(published("flux", PUBLISHED["flux"], SMALL["flux"]),),
        groups={**FLUX_GROUPS, **VAE_GROUPS, **TEXT_GROUPS},
        sizes={**FLUX_SIZES, "text_dim": 64},
        counted={**FLUX_COUNTED, **TEXT_COUNTED},
        held=FLUX_HELD,
    ),
    *(entry for name in SD3_KINDS for entry in sd3_entries(name)),
)

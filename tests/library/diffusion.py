"""Diffusion models on latents, and their autoencoder, under the names of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.subject import Subject
from tests.library.entry import Entry, Fields, Model, diffuser

CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")
UNET: Fields = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 64,
}
SD1: Fields = {
    **UNET,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": [*CROSS[:1] * 3, PLAIN[0]],
    "up_block_types": [PLAIN[1], *CROSS[1:] * 3],
}
SD2: Fields = {
    **SD1,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL: Fields = {
    **UNET,
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "down_block_types": [PLAIN[0], *CROSS[:1] * 2],
    "up_block_types": [*CROSS[1:] * 2, PLAIN[1]],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: Fields = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}

# A fifth as wide. The ratios of the widths and the 32 groups of a norm are the real ones: they
# decide where groups cross the skip connections that a decoder block reads beside its own channels.
TEXT = 24
FOUR: Fields = {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": TEXT}
THREE: Fields = {"block_out_channels": [64, 128, 256], "cross_attention_dim": TEXT}
PIECES: Mapping[str, int] = {"x1": 2, "x2": 4, "x4": 8, "x8": 16, "context": TEXT}
DIM: Mapping[str, int] = {"dim": 16}
SMALL_SD1: Fields = {**SD1, **FOUR}
SMALL_SD2: Fields = {**SD2, **FOUR, "attention_head_dim": [4, 8, 16, 16]}
SMALL_SDXL: Fields = {
    **SDXL,
    **THREE,
    "attention_head_dim": [4, 8, 16],
    "transformer_layers_per_block": [1, 2, 3],
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
SMALL_VAE: Fields = {**VAE, "block_out_channels": [64, 128, 256, 256], "sample_size": 32}


def small(fields: Fields, sizes: Mapping[str, int] | None = None) -> Model:
    """Return a model that is small enough to be run."""
    return replace(diffuser(**fields), sizes=sizes or {})


def real(fields: Fields, copy: Fields) -> Model:
    """Return a model of the published size, which is not run but for its small copy."""

    def found() -> Subject:
        made = diffusers_subject("model", fields)
        return replace(made, small=diffusers_subject("copy", copy))

    return Model(found, lambda: fields)


BLOCK = r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)"
MIDDLE = r"mid_block\.attentions\.0"
LAYER = r"\.transformer_blocks\.(\d+)"
UNET_GROUPS = {
    rf"{BLOCK}{LAYER}\.attn([12])\.heads": r"head.\1.\2.\3.\4.attn\5",
    rf"{BLOCK}{LAYER}\.attn([12])\.(qk|vo)": r"\6.\1.\2.\3.\4.attn\5",
    rf"{BLOCK}{LAYER}\.ff\.net\.0\.proj": r"feed.\1.\2.\3.\4",
    rf"{BLOCK}(?:\.transformer_blocks\.0)?\.stream": r"stream.\1.\2.\3",
    rf"{MIDDLE}{LAYER}\.attn([12])\.heads": r"head.mid.\1.attn\2",
    rf"{MIDDLE}{LAYER}\.attn([12])\.(qk|vo)": r"\3.mid.\1.attn\2",
    rf"{MIDDLE}{LAYER}\.ff\.net\.0\.proj": r"feed.mid.\1",
    rf"{MIDDLE}(?:\.transformer_blocks\.0)?\.stream": "stream.mid",
    r"time_embedding\.linear_1": "time.inner",
    r"time_embedding\.(?:linear_2|stream)": "time",
    r"add_embedding\.linear_1": "added.inner",
}
UNET_PLACES = {
    r"conv_in\.weight": "down.0",
    r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.weight": r"low.\1",
    r"down_blocks\.(\d+)\.resnets\.\d+\.conv2\.weight": r"down.\1",
    r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.weight": r"high.\1",
    r"up_blocks\.(\d+)\.resnets\.(\d+)\.conv2\.weight": r"up.\1.\2",
    r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight": r"hidden.\1.\2.\3",
    r"mid_block\.resnets\.(\d+)\.conv1\.weight": r"hidden.mid.\1",
}
UNET_MEASURED: Mapping[str, Mapping[int, str]] = {
    r"(?:norm|pair)\..*": {},
    r"unit\.(?:down|low|up|high)\..*": {2: "x1", 4: "x2", 8: "x4", 16: "x8"},
}
UNET_SIZES: Mapping[str, int] = {"x1": 10, "x2": 20, "x4": 40, "x8": 80}
UNET_HELD = {r".*\.attn2\.to_[kv]\.weight": "text"}
ABOUT_NORMS = """Norms put channels into 32 groups: whole groups may change places (norm), and
    channels inside each (unit). A decoder block reads the channels of an encoder block beside its
    own, and norms them together: their groups then hold two of the first ones (pair), or cross the
    border between the two, and all that is left is the order inside pieces that no border cuts;
    their places are fixed. down.i is what block i adds to, low.i what its downsampler writes,
    up.i.j and high.i the same of the decoder. The pieces follow from the widths: --set x1=, x2=,
    x4= and x8= for models in the same ratios. What the model reads and returns, latents and
    text, keeps its order."""
VAE_PLACES = {
    r"(encoder|decoder)\.conv_in\.weight": r"\1.in",
    r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.weight": r"low.\1",
    r"encoder\.down_blocks\.(\d+)\.resnets\.\d+\.conv2\.weight": r"down.\1",
    r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv\.weight": r"high.\1",
    r"decoder\.up_blocks\.(\d+)\.resnets\.\d+\.conv2\.weight": r"up.\1",
    r"\w+\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight": r"hidden.\1.\2.\3",
    r"(encoder|decoder)\.mid_block\.resnets\.(\d+)\.conv1\.weight": r"hidden.\1.\2",
}


def unet(name: str, models: str, fields: Fields, copy: Fields, *, heads: int | None) -> Entry:
    """Return the entry of one U-Net. heads: in every layer; None if their width is 64 instead."""
    attention = "Every attention has 8 heads." if heads else "Every head is 64 (dim) wide."
    counted: dict[str, int | str] = {r"head\..*": heads} if heads else {r"(?:qk|vo)\..*": "dim"}
    context = fields["cross_attention_dim"]
    return Entry(
        name=name,
        about=f"""The U-Net of {models} as diffusers names it. {ABOUT_NORMS} {attention} Heads may
            change places, and inside each the dims that queries and keys share (qk) and those that
            values and the output share (vo).""",
        description=f"diffusers UNet2DConditionModel of {models}",
        needs="diffusers",
        variants=(small(copy, PIECES if heads else {**PIECES, **DIM}),),
        larger=(real(fields, copy),),
        groups=UNET_GROUPS,
        places=UNET_PLACES,
        sizes={**UNET_SIZES, **({} if heads else {"dim": 64}), "context": context},
        counted={**counted, "text": "context"},
        measured=UNET_MEASURED,
        held=UNET_HELD,
    )


ENTRIES = (
    unet("unet_sd1", "Stable Diffusion 1.x", SD1, SMALL_SD1, heads=8),
    unet("unet_sd2", "Stable Diffusion 2.x", SD2, SMALL_SD2, heads=None),
    unet("unet_sdxl", "Stable Diffusion XL", SDXL, SMALL_SDXL, heads=None),
    Entry(
        name="autoencoder_kl",
        about="""The autoencoder of Stable Diffusion 1.x, 2.x and XL as new and old versions of
            diffusers name it. The latents keep their order, means and variances in the output of
            quant_conv and what post_quant_conv reads: U-Nets read and write them, so that a
            permuted autoencoder goes with the same U-Net. Norms put channels into 32 groups: whole
            groups may change places (norm), and channels inside each (unit). down.i is what
            block i of the encoder adds to, low.i what its downsampler writes, up.i and high.i the
            same of the decoder; in is what conv_in and the blocks beside it write.""",
        description="diffusers AutoencoderKL of Stable Diffusion 1.x, 2.x and XL",
        needs="diffusers",
        variants=(small(SMALL_VAE),),
        larger=(real(VAE, SMALL_VAE),),
        groups={
            r"(encoder|decoder)\.mid_block\.attentions\.0\.to_q": r"qk.\1",
            r"(encoder|decoder)\.mid_block\.attentions\.0\.to_v": r"vo.\1",
        },
        places=VAE_PLACES,
        measured={r"norm\..*": {}},
        spelled={
            r"\{to_q,to_k\}": "{to_q,to_k,query,key}",
            r"\bto_v\b": "{to_v,value}",
            r"\bto_out\.0\b": "{to_out.0,proj_attn}",
        },
    ),
)

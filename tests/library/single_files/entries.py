"""Single files of Stable Diffusion in the original layout: a U-Net, its autoencoder, its texts."""

from __future__ import annotations

from collections.abc import Mapping

from tests.library.diffusion import UNET_HELD, UNET_MEASURED, UNET_SIZES
from tests.library.entry import Entry, Model
from tests.library.single_files.file_models import (
    EMBEDDERS,
    PUBLISHED,
    SMALL,
    SMALL_SIZES,
    TEXT,
    held,
    published,
)

U, V = r"model\.diffusion_model\.", r"first_stage_model\."
BLOCK = rf"{U}(in|out)put_blocks\.(\d+)\.1"
MIDDLE = rf"{U}middle_block\.1"
LAYER = r"\.transformer_blocks\.(\d+)"
CLIP_LAYER = r"transformer\.text_model\.encoder\.layers\.(\d+)\.self_attn"
OPEN_CLIP_LAYER = r"model\.transformer\.resblocks\.(\d+)\.attn"
UNET_GROUPS = {
    rf"{BLOCK}{LAYER}\.attn([12])\.heads": r"head.\1.\2.\3.attn\4",
    rf"{BLOCK}{LAYER}\.attn([12])\.(qk|vo)": r"\5.\1.\2.\3.attn\4",
    rf"{BLOCK}{LAYER}\.ff\.net\.0\.proj": r"feed.\1.\2.\3",
    rf"{BLOCK}(?:\.transformer_blocks\.0)?\.stream": r"stream.\1.\2",
    rf"{MIDDLE}{LAYER}\.attn([12])\.heads": r"head.mid.\1.attn\2",
    rf"{MIDDLE}{LAYER}\.attn([12])\.(qk|vo)": r"\3.mid.\1.attn\2",
    rf"{MIDDLE}{LAYER}\.ff\.net\.0\.proj": r"feed.mid.\1",
    rf"{MIDDLE}(?:\.transformer_blocks\.0)?\.stream": "stream.mid",
    rf"{U}time_embed\.0": "time.inner",
    rf"{U}time_embed(?:ding)?\.(?:2|stream)": "time",
    rf"{U}label_emb\.0\.0": "added.inner",
}
VAE_GROUPS = {
    rf"{V}(encoder|decoder)\.mid\.attn_1\.q": r"vae.qk.\1",
    rf"{V}(encoder|decoder)\.mid\.attn_1\.v": r"vae.vo.\1",
    rf"{V}encoder\.conv_out": "vae.encoder.out",
    rf"{V}post_quant_conv": "vae.decoder.latent",
}
PLACES = {
    rf"{U}input_blocks\.0\.0\.weight": "down.0",
    rf"{U}input_blocks\.(\d+)\.0\.op\.weight": r"low.\1",
    rf"{U}input_blocks\.(\d+)\.0\.out_layers\.3\.weight": r"down.\1",
    rf"{U}output_blocks\.(\d+)\.[12]\.conv\.weight": r"high.\1",
    rf"{U}output_blocks\.(\d+)\.0\.out_layers\.3\.weight": r"up.\1",
    rf"{U}(in|out)put_blocks\.(\d+)\.0\.in_layers\.2\.weight": r"hidden.\1.\2",
    rf"{U}middle_block\.(\d+)\.in_layers\.2\.weight": r"hidden.mid.\1",
    rf"{V}(encoder|decoder)\.conv_in\.weight\??": r"vae.\1.in",
    rf"{V}encoder\.down\.(\d+)\.downsample\.conv\.weight\??": r"vae.low.\1",
    rf"{V}encoder\.down\.(\d+)\.block\.\d+\.conv2\.weight\??": r"vae.down.\1",
    rf"{V}decoder\.up\.(\d+)\.upsample\.conv\.weight\??": r"vae.high.\1",
    rf"{V}decoder\.up\.(\d+)\.block\.\d+\.conv2\.weight\??": r"vae.up.\1",
    rf"{V}\w+\.(down|up)\.(\d+)\.block\.(\d+)\.conv1\.weight\??": r"vae.hidden.\1.\2.\3",
    rf"{V}(encoder|decoder)\.mid\.block_(\d)\.conv1\.weight\??": r"vae.hidden.\1.\2",
}


def text_groups(prefix: str, layer: str, mlp: str, name: str) -> dict[str, str]:
    """Return the names of the groups of a text encoder."""
    start = layer.rpartition(r"\.")[0]
    return {
        rf"{prefix}{layer}\.heads": rf"{name}.head.\1",
        rf"{prefix}{layer}\.(qk|vo)": rf"{name}.\2.\1",
        rf"{prefix}{start}\.mlp\.{mlp}": rf"{name}.hidden.\1",
    }


SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
)
ABOUT = """Single files of Stable Diffusion {version} in the original layout: the U-Net, and where
    the file has them, the autoencoder and the text encoder{plural}. None reads another but by what
    keeps its order: latents and what the text encoder{plural} return{s}, at any layer. Norms of
    U-Nets and autoencoders put channels into 32 groups: whole groups may change places (norm), and
    channels inside each (unit); where a decoder block norms two inputs together, pieces of them
    (see unet_sd1): --set x1=, x2=, x4=, x8= for other widths in the same ratios."""


def entry(
    name: str,
    version: str,
    models: tuple[Model, Model],
    *,
    context: int,
    heads: int | None,
    text: Mapping[str, str],
    extra: tuple[str, ...],
    pieces: int = 10,
) -> Entry:
    """Return the entry of one kind of file.

    models: small, and of the published size. pieces: channels in the smallest piece of a norm.
    """
    plural = len(text) > len(text_groups("", "", "", ""))
    counted: dict[str, int | str] = {r"head\..*": heads} if heads else {r"(?:qk|vo)\..*": "dim"}
    return Entry(
        name=name,
        about=ABOUT.format(version=version, plural="s" * plural, s="s" * (not plural)),
        description=f"single file of Stable Diffusion {version}, original layout",
        needs="diffusers",
        variants=models[:1],
        larger=models[1:],
        groups={**UNET_GROUPS, **VAE_GROUPS, **text},
        places=PLACES,
        sizes={
            **{x: n // 10 * pieces for x, n in UNET_SIZES.items()},
            "dim": 64,
            "context": context,
        },
        counted={**counted, r"text\w*\.(?:qk|vo)\..*": "dim", "text": "context"},
        measured=UNET_MEASURED,
        held=UNET_HELD,
        spelled={r"^model\.diffusion_model\.": "{,model.diffusion_model.}"},
        extra={
            f"{{{','.join(SCHEDULE)}}}?": "[~]",
            **dict.fromkeys(extra, "[~]"),
        },
    )


def models_of(name: str) -> tuple[Model, Model]:
    """Return the models of a kind of file, small and of the published size."""
    small, large = SMALL[name], PUBLISHED[name]
    return held(name, small, SMALL_SIZES), published(name, large, small)


POSITIONS = "transformer.text_model.embeddings.position_ids?"
MASK = "model.attn_mask?"
ENTRIES = (
    entry(
        "sd1",
        "1.x",
        models_of("sd1"),
        context=768,
        heads=8,
        text=text_groups(r"cond_stage_model\.", CLIP_LAYER, "fc1", "text"),
        extra=(f"{TEXT}{POSITIONS}",),
    ),
    entry(
        "sd2",
        "2.x",
        models_of("sd2"),
        context=1024,
        heads=None,
        text=text_groups(r"cond_stage_model\.", OPEN_CLIP_LAYER, "c_fc", "text"),
        extra=(f"{TEXT}{MASK}",),
    ),
    entry(
        "sdxl",
        "XL",
        models_of("sdxl"),
        context=2048,
        heads=None,
        text={
            **text_groups(r"conditioner\.embedders\.0\.", CLIP_LAYER, "fc1", "text"),
            **text_groups(r"conditioner\.embedders\.1\.", OPEN_CLIP_LAYER, "c_fc", "text_g"),
        },
        extra=(f"{EMBEDDERS}0.{POSITIONS}", f"{EMBEDDERS}1.{MASK}", "denoiser.sigmas?"),
    ),
    entry(
        "sdxl_refiner",
        "XL, refiner",
        models_of("sdxl_refiner"),
        context=1280,
        heads=None,
        text=text_groups(r"conditioner\.embedders\.0\.", OPEN_CLIP_LAYER, "c_fc", "text"),
        extra=(f"{EMBEDDERS}0.{MASK}", "denoiser.sigmas?"),
        pieces=12,
    ),
)

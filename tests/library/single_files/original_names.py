"""Names of diffusers and transformers, and the names that the original programs gave.

Sources: the attributes of the modules in CompVis/latent-diffusion (openaimodel.py, model.py),
mlfoundations/open_clip (transformer.py), black-forest-labs/flux (model.py, layers.py) and
Stability-AI/sd3-ref (mmdit.py). The tests hold them against the converters of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from tests.library.single_files.stored import CONVOLUTION, SWAPPED, TRANSPOSED, WHOLE, Place

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
PER_LEVEL = 3  # modules of a U-Net in one resolution: two blocks, and what changes it
LEVELS = 4  # resolutions of the autoencoder

RESNET: tuple[Rule, ...] = (
    (r"(\.resnets\.\d+)\.norm1\b", r"\1.in_layers.0"),
    (r"(\.resnets\.\d+)\.conv1\b", r"\1.in_layers.2"),
    (r"(\.resnets\.\d+)\.time_emb_proj\b", r"\1.emb_layers.1"),
    (r"(\.resnets\.\d+)\.norm2\b", r"\1.out_layers.0"),
    (r"(\.resnets\.\d+)\.conv2\b", r"\1.out_layers.3"),
    (r"(\.resnets\.\d+)\.conv_shortcut\b", r"\1.skip_connection"),
)


def _down(found: re.Match[str]) -> str:
    number = PER_LEVEL * int(found[1]) + int(found[3]) + 1
    return f"input_blocks.{number}.{int(found[2] == 'attentions')}"


def _up(found: re.Match[str]) -> str:
    number = PER_LEVEL * int(found[1]) + int(found[3])
    return f"output_blocks.{number}.{int(found[2] == 'attentions')}"


def unet_rules(attentive: Iterable[int]) -> tuple[Rule, ...]:
    """Return the names of a U-Net. attentive: the blocks of its decoder that have attention.

    There what changes the resolution is the third module of its block, elsewhere the second.
    """
    third = frozenset(attentive)

    def grow(found: re.Match[str]) -> str:
        place = 2 if int(found[1]) in third else 1
        return f"output_blocks.{PER_LEVEL * int(found[1]) + PER_LEVEL - 1}.{place}.conv"

    def shrink(found: re.Match[str]) -> str:
        return f"input_blocks.{PER_LEVEL * (int(found[1]) + 1)}.0.op"

    return (
        *RESNET,
        (r"^time_embedding\.linear_1\b", "time_embed.0"),
        (r"^time_embedding\.linear_2\b", "time_embed.2"),
        (r"^add_embedding\.linear_1\b", "label_emb.0.0"),
        (r"^add_embedding\.linear_2\b", "label_emb.0.2"),
        (r"^conv_in\b", "input_blocks.0.0"),
        (r"^conv_norm_out\b", "out.0"),
        (r"^conv_out\b", "out.2"),
        (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\b", shrink),
        (r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", _down),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
        (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\b", grow),
        (r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", _up),
    )


def attentive_blocks(names: Iterable[str]) -> frozenset[int]:
    """Return the blocks of a decoder that have attention, by the names of diffusers."""
    found = (re.match(r"up_blocks\.(\d+)\.attentions\.", name) for name in names)
    return frozenset(int(match[1]) for match in found if match)


VAE_RULES: tuple[Rule, ...] = (
    (r"^(encoder|decoder)\.mid_block\.resnets\.0", r"\1.mid.block_1"),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1", r"\1.mid.block_2"),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0", r"\1.mid.attn_1"),
    (r"\.attn_1\.group_norm\b", ".attn_1.norm"),
    (r"\.attn_1\.to_([qkv])\b", r".attn_1.\1"),
    (r"\.attn_1\.to_out\.0\b", ".attn_1.proj_out"),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\b", r"encoder.down.\1.downsample.conv"),
    (
        r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)",
        lambda found: f"decoder.up.{LEVELS - 1 - int(found[1])}.block.{found[2]}",
    ),
    (
        r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv\b",
        lambda found: f"decoder.up.{LEVELS - 1 - int(found[1])}.upsample.conv",
    ),
    (r"\.conv_shortcut\b", ".nin_shortcut"),
    (r"\.conv_norm_out\b", ".norm_out"),
)
CLIP_RULES: tuple[Rule, ...] = (
    (r"^text_model\.", ""),
    (r"^(?!text_projection)", "text_model."),
    (r"^", "transformer."),
)
T5_RULES: tuple[Rule, ...] = ((r"^", "transformer."),)
OPEN_CLIP_RULES: tuple[Rule, ...] = (
    (r"^text_model\.", ""),
    (r"^encoder\.layers\.(\d+)", r"transformer.resblocks.\1"),
    (r"\.layer_norm([12])\b", r".ln_\1"),
    (r"\.mlp\.fc1\b", ".mlp.c_fc"),
    (r"\.mlp\.fc2\b", ".mlp.c_proj"),
    (r"\.self_attn\b", ".attn"),
    (r"^final_layer_norm\b", "ln_final"),
    (r"^embeddings\.token_embedding\b", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_projection\.weight", "text_projection"),
)
FLUX_RULES: tuple[Rule, ...] = (
    (r"^time_text_embed\.timestep_embedder\b", "time_in"),
    (r"^time_text_embed\.text_embedder\b", "vector_in"),
    (r"^time_text_embed\.guidance_embedder\b", "guidance_in"),
    (r"^(time|vector|guidance)_in\.linear_1\b", r"\1_in.in_layer"),
    (r"^(time|vector|guidance)_in\.linear_2\b", r"\1_in.out_layer"),
    (r"^context_embedder\b", "txt_in"),
    (r"^x_embedder\b", "img_in"),
    (r"^norm_out\.linear\b", "final_layer.adaLN_modulation.1"),
    (r"^proj_out\b", "final_layer.linear"),
    (r"^(single_transformer_blocks\.\d+)\.norm\.linear\b", r"\1.modulation.lin"),
    (r"^(single_transformer_blocks\.\d+)\.attn\.norm_q\.weight", r"\1.norm.query_norm.scale"),
    (r"^(single_transformer_blocks\.\d+)\.attn\.norm_k\.weight", r"\1.norm.key_norm.scale"),
    (r"^(single_transformer_blocks\.\d+)\.(?:attn\.to_[qkv]|proj_mlp)\b", r"\1.linear1"),
    (r"^(single_transformer_blocks\.\d+)\.proj_out\b", r"\1.linear2"),
    (r"\.norm1\.linear\b", ".img_mod.lin"),
    (r"\.norm1_context\.linear\b", ".txt_mod.lin"),
    (r"\.attn\.norm_q\.weight", ".img_attn.norm.query_norm.scale"),
    (r"\.attn\.norm_k\.weight", ".img_attn.norm.key_norm.scale"),
    (r"\.attn\.norm_added_q\.weight", ".txt_attn.norm.query_norm.scale"),
    (r"\.attn\.norm_added_k\.weight", ".txt_attn.norm.key_norm.scale"),
    (r"\.attn\.to_[qkv]\b", ".img_attn.qkv"),
    (r"\.attn\.add_[qkv]_proj\b", ".txt_attn.qkv"),
    (r"\.attn\.to_out\.0\b", ".img_attn.proj"),
    (r"\.attn\.to_add_out\b", ".txt_attn.proj"),
    (r"\.ff\.net\.0\.proj\b", ".img_mlp.0"),
    (r"\.ff\.net\.2\b", ".img_mlp.2"),
    (r"\.ff_context\.net\.0\.proj\b", ".txt_mlp.0"),
    (r"\.ff_context\.net\.2\b", ".txt_mlp.2"),
    (r"^single_transformer_blocks\b", "single_blocks"),
    (r"^transformer_blocks\b", "double_blocks"),
)
SD3_RULES: tuple[Rule, ...] = (
    (r"^pos_embed\.pos_embed", "pos_embed"),
    (r"^pos_embed\.proj\b", "x_embedder.proj"),
    (r"^time_text_embed\.timestep_embedder\.linear_1\b", "t_embedder.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2\b", "t_embedder.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1\b", "y_embedder.mlp.0"),
    (r"^time_text_embed\.text_embedder\.linear_2\b", "y_embedder.mlp.2"),
    (r"^norm_out\.linear\b", "final_layer.adaLN_modulation.1"),
    (r"^proj_out\b", "final_layer.linear"),
    (r"\.norm1\.linear\b", ".x_block.adaLN_modulation.1"),
    (r"\.norm1_context\.linear\b", ".context_block.adaLN_modulation.1"),
    (r"\.(attn2?)\.norm_([qk])\b", r".x_block.\1.ln_\2"),
    (r"\.attn\.norm_added_([qk])\b", r".context_block.attn.ln_\1"),
    (r"\.(attn2?)\.to_[qkv]\b", r".x_block.\1.qkv"),
    (r"\.attn\.add_[qkv]_proj\b", ".context_block.attn.qkv"),
    (r"\.(attn2?)\.to_out\.0\b", r".x_block.\1.proj"),
    (r"\.attn\.to_add_out\b", ".context_block.attn.proj"),
    (r"\.ff\.net\.0\.proj\b", ".x_block.mlp.fc1"),
    (r"\.ff\.net\.2\b", ".x_block.mlp.fc2"),
    (r"\.ff_context\.net\.0\.proj\b", ".context_block.mlp.fc1"),
    (r"\.ff_context\.net\.2\b", ".context_block.mlp.fc2"),
    (r"^transformer_blocks\b", "joint_blocks"),
)
FUSED = ("q", "k", "v", "mlp")


def renamed(path: str, rules: Sequence[Rule]) -> str:
    """Return the path of a module or tensor by rules, each applied once."""
    for expression, new in rules:
        path = re.sub(expression, new, path)
    return path


def unet_place(name: str, rules: Sequence[Rule]) -> Place:
    """Return where a file has a tensor of a U-Net."""
    return Place(renamed(name, rules))


def vae_place(name: str, rules: Sequence[Rule] = VAE_RULES) -> Place:
    """Return where a file has a tensor of the autoencoder; attention there is a convolution."""
    inside = re.search(r"\.attn_1\.(?:[qkv]|proj_out)\.", renamed(name, rules))
    return Place(renamed(name, rules), form=CONVOLUTION if inside else WHOLE)


def flux_place(name: str, rules: Sequence[Rule] = FLUX_RULES) -> Place:
    """Return where a file has a tensor of FLUX, which joins q, k, v and what stands beside them."""
    new = renamed(name, rules)
    found = re.search(r"\.(?:to_([qkv])|add_([qkv])_proj|proj_(mlp))\.(?:weight|bias)$", name)
    part = FUSED.index(next(filter(None, found.groups()))) if found else 0
    swapped = new.startswith("final_layer.adaLN_modulation.")
    return Place(new, part, SWAPPED if swapped else WHOLE)


def sd3_place(name: str, *, last: int) -> Place:
    """Return where a file has a tensor of SD 3. last: number of its last block.

    There the text is only read, and the two numbers of its norm stand in another order.
    """
    new = renamed(name, SD3_RULES)
    found = re.search(r"\.(?:to_([qkv])|add_([qkv])_proj)\.(?:weight|bias)$", name)
    part = FUSED.index(next(filter(None, found.groups()))) if found else 0
    ends = ("final_layer.adaLN_modulation.", f"joint_blocks.{last}.context_block.adaLN_modulation.")
    return Place(new, part, SWAPPED if new.startswith(ends) else WHOLE)


def t5_place(name: str, rules: Sequence[Rule] = T5_RULES) -> Place:
    """Return where a file has a tensor of T5."""
    return Place(renamed(name, rules))


def clip_place(name: str, rules: Sequence[Rule] = CLIP_RULES) -> Place:
    """Return where a file has a tensor of a text encoder that it keeps as transformers does."""
    return Place(renamed(name, rules))


def open_clip_place(name: str, rules: Sequence[Rule] = OPEN_CLIP_RULES) -> Place:
    """Return where a file has a tensor of OpenCLIP's text encoder, which joins q, k and v."""
    new = renamed(name, rules)
    found = re.fullmatch(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)", new)
    if found:
        return Place(f"{found[1]}.in_proj_{found[3]}", FUSED.index(found[2]))
    return Place(new, form=TRANSPOSED if new == "text_projection" else WHOLE)

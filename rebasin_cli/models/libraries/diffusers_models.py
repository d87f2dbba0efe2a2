"""Configurations of diffusers, as models with inputs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from math import gcd
from typing import Any

from torch import Tensor, nn

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.models.libraries.diffusers_inputs import diffusers_examples
from rebasin_cli.models.libraries.optional_packages import optional, version_of
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.user.construction import check_arguments, construct
from rebasin_cli.tensors.trees import tensors_in

TIME_IDS = 6  # SDXL conditions on original size, crop and target size: two numbers each
# Where each block has its own number, as many as its width asks for: they keep their ratios.
HEADS = ("attention_head_dim", "num_attention_heads")
ROTARY = 8  # dims of a head with rotary positions on up to four axes, an even number on each
AXES = {"axes_dims_rope", "rope_axes_dim"}  # these dims, by axis
CHANNELS = 2  # in each group of a norm of the narrowest block
# Widths are divisible by the groups of a norm and by the heads.
WIDTHS = (32, 64, 96, 48, 40, 56, 72, 80, 88, 104, 112)
LIMITS = {
    "attention_head_dim": 4,
    "num_attention_heads": 4,
    "norm_num_groups": 8,
    "groups": 4,
    "layers_per_block": 2,
    "transformer_layers_per_block": 2,
    "num_layers": 3,
    "num_single_layers": 3,
    "num_vq_embeddings": 19,
    "sample_size": 32,
    "pos_embed_max_size": 32,
    "addition_time_embed_dim": 8,
    "base_dim": 16,
    "decoder_base_dim": 16,
}
WIDE = (
    "block_out_channels",
    "cross_attention_dim",
    "encoder_hid_dim",
    "joint_attention_dim",
    "caption_projection_dim",
    "caption_channels",
    "pooled_projection_dim",
    "time_embedding_dim",
    "conditioning_embedding_out_channels",
    "down_block_out_channels",
    "up_block_out_channels",
    "encoder_block_out_channels",
    "decoder_block_out_channels",
)


def diffusers_subject(name: str, fields: Mapping[str, Any]) -> Subject:
    """Return the model of a parsed config.json with a `_class_name`, and a small copy of it."""
    diffusers = optional("diffusers")
    title = str(fields.get("_class_name", ""))
    architecture: Any = getattr(diffusers, title, None)
    if architecture is None or not hasattr(architecture, "from_config"):
        hint = suggest(title, dir(diffusers))
        raise UsageError(f"{name}: diffusers has no model class {title!r}", hint=hint)
    arguments = {key: value for key, value in fields.items() if not key.startswith("_")}
    check_arguments(name, architecture.__init__, {"self": None, **arguments})
    tiny = shrunk_arguments({**_defaults(architecture), **arguments})
    whole = _with_latents(architecture)
    build = partial(construct, f"{name} (small)", partial(whole.from_config, tiny))
    small = _subject(f"{name} (small)", architecture, tiny, build)
    return replace(_subject(name, architecture, arguments, build), small=small)


def _defaults(architecture: Any) -> dict[str, Any]:
    """Return what a class takes for arguments that a configuration leaves out."""
    parameters = inspect.signature(architecture.__init__).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def _subject(
    name: str,
    architecture: Any,
    arguments: Mapping[str, Any],
    small: Callable[[], nn.Module],
) -> Subject:
    """Return the subject of one class and one set of arguments."""
    whole = _with_latents(architecture)
    build = partial(construct, name, partial(whole.from_config, dict(arguments)))
    text = json.dumps(dict(arguments), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    version = f"{version_of('diffusers')} {architecture.__name__} {digest}"
    return Subject(name, build, partial(diffusers_examples, small), version=version)


def _with_latents(architecture: Any) -> Any:
    """Return the class of an autoencoder so that a call returns the latents too.

    Other models read and write them: their order is part of what an autoencoder does.
    """
    parts = hasattr(architecture, "encode") and hasattr(architecture, "decode")
    if not parts or "sample" not in inspect.signature(architecture.forward).parameters:
        return architecture

    @wraps(architecture.forward)
    def forward(self: Any, sample: Any, **arguments: Any) -> dict[str, Any]:
        encoded = self.encode(sample)
        encoded = encoded.to_tuple() if hasattr(encoded, "to_tuple") else encoded
        latents = [_numbers_of(value) for value in encoded]
        return {"latents": latents, "decoded": architecture.forward(self, sample, **arguments)}

    return type(architecture.__name__, (architecture,), {"forward": forward})


def _numbers_of(encoded: Any) -> Any:
    """Return a tensor as it is, of a distribution its parameters: one tensor, or several."""
    found = getattr(encoded, "parameters", encoded)
    return found if isinstance(found, Tensor) else tensors_in(vars(encoded))


def shrunk_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of the same architecture with few layers and small widths."""
    widths = _widths(arguments)
    made = {key: _small(key, value, widths) for key, value in arguments.items()}
    if arguments.get("addition_embed_type") == "text_time":
        text = arguments["projection_class_embeddings_input_dim"]
        text -= TIME_IDS * arguments["addition_time_embed_dim"]
        times = TIME_IDS * made["addition_time_embed_dim"]
        made["projection_class_embeddings_input_dim"] = widths.get(text, min(text, 24)) + times
    for name in (name for name in AXES if made.get(name)):
        others = 2 * (len(made[name]) - 1)
        if sum(made[name]) > ROTARY:
            made[name] = [*[2] * (others // 2), ROTARY - others]
        made["attention_head_dim"] = sum(made[name])
    return made


def _widths(arguments: Mapping[str, Any]) -> dict[int, int]:
    """Return new widths by old ones; the product of heads and their size is one of them."""
    heads, size = arguments.get("num_attention_heads"), arguments.get("attention_head_dim")
    found = _channels(arguments)
    if isinstance(heads, int) and isinstance(size, int):
        new = min(size, ROTARY if arguments.keys() & AXES else LIMITS["attention_head_dim"])
        found[heads * size] = min(heads, LIMITS["num_attention_heads"]) * new
    values = [item for name in WIDE for item in _flat(arguments.get(name))]
    fresh = [item for item in dict.fromkeys(values) if item not in found]
    return {
        **{old: min(old, new) for old, new in zip(sorted(fresh), WIDTHS, strict=False)},
        **found,
    }


def _channels(arguments: Mapping[str, Any]) -> dict[int, int]:
    """Return new widths of blocks, in the ratios of the old ones.

    Norms put channels of concatenated blocks into groups: only with these ratios do the groups of
    the small model cross its blocks where those of the large one do.
    """
    groups, widths = arguments.get("norm_num_groups"), _flat(arguments.get("block_out_channels"))
    if not (isinstance(groups, int) and widths and gcd(*widths)):
        return {}
    unit = CHANNELS * min(groups, LIMITS["norm_num_groups"])
    return {width: min(width, width // gcd(*widths) * unit) for width in widths}


def _flat(value: Any) -> list[int]:
    """Return the whole numbers of a value or list."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if type(item) is int]


def _small(key: str, value: Any, widths: Mapping[int, int]) -> Any:
    """Return what one argument, or each number of its list, becomes."""
    if key in HEADS and isinstance(value, (list, tuple)) and gcd(*_flat(value)):
        return [item // gcd(*_flat(value)) * 2 for item in _flat(value)]
    if isinstance(value, (list, tuple)):
        return [_small(key, item, widths) for item in value]
    if type(value) is not int:
        return value
    if key in LIMITS:
        return min(value, LIMITS[key])
    return widths.get(value, value) if key in WIDE else value

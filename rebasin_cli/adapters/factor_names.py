"""What tensors of an adapter are called, and which axis of the weight each of their axes is.

The names are those of PEFT (`NAME.lora_A.weight`, `NAME.lora_A.ADAPTER.weight`), of diffusers
(`NAME.lora.down.weight`, `NAME.processor.to_q_lora.down.weight`) and of kohya and LyCORIS
(`lora_unet_NAME.lora_down.weight`, underscores for dots).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

WEIGHT = ".weight"


class Role(Enum):
    """What a tensor is to the weight that it belongs to, stored as (out, in, kernel).

    READS: A, (r, in, kernel). WRITES: B, (out, r). VECTOR: one number for each output, any axes of
    1 beside it. SCALE: one for each output or for each input, as its shape tells. ROWS: some rows
    of an embedding. WHOLE: in the weight's shape. OVER_ROWS, OVER_COLUMNS: without the last of the
    weight's axes, or the one before, or of size 1 there. STILL: holds no units. STUCK: holds units
    in a way that no order of them follows.
    """

    READS = "reads"
    WRITES = "writes"
    VECTOR = "vector"
    SCALE = "scale"
    ROWS = "rows"
    WHOLE = "whole"
    OVER_COLUMNS = "one for each row"
    OVER_ROWS = "one for each column"
    STILL = "still"
    STUCK = "stuck"


@dataclass(frozen=True)
class FactorEntry:
    """A tensor of an adapter. target: the name of its weight, as the adapter spells it.

    kind: what tells it from others of the same weight. head: what stands before the target.
    embedding: the weight is (in, out) whatever the spec says.
    """

    name: str
    role: Role
    target: str = ""
    kind: str = ""
    head: str = ""
    embedding: bool = False


_TAIL = r"(?:\.(?!weight$|bias$)[^.]+)?"  # PEFT's name of the adapter, in older files
# In turn; the first that fits the end of a name counts.
_ENDS: Sequence[tuple[str, Role]] = (
    (r"\.lora_embedding_A" + _TAIL, Role.READS),
    (r"\.lora_embedding_B" + _TAIL, Role.WRITES),
    (r"\.lora_magnitude_vector" + _TAIL + r"(?:\.weight)?", Role.VECTOR),
    (r"\.lora_B" + _TAIL + r"\.bias", Role.VECTOR),
    (r"\.(?:lora_A|lora_down|lora\.down)" + _TAIL + r"(?:\.weight)?", Role.READS),
    (r"\.(?:lora_B|lora_up|lora\.up)" + _TAIL + r"(?:\.weight)?", Role.WRITES),
    (r"\.hada_w[12]_a" + _TAIL, Role.WRITES),
    (r"\.hada_w[12]_b" + _TAIL, Role.READS),
    (r"\.dora_scale", Role.VECTOR),
    (r"\.ia3_l" + _TAIL, Role.SCALE),
    (r"(?:\.token_adapter)?\.trainable_tokens_delta" + _TAIL, Role.ROWS),
    (r"\.(?:alpha|lora_mid\.weight|lora_E|ranknum)" + _TAIL, Role.STILL),
    (r"\.diff_b", Role.VECTOR),
    (r"\.diff", Role.WHOLE),
    (r"\.(?:lokr_\w+|hada_t\d?|b?oft_\w+|vera_lambda_\w)" + _TAIL + r"(?:\.weight)?", Role.STUCK),
)
_HEADS = re.compile(
    r"base_model\.model\.|lora_unet_|lora_te\d?_|lora_transformer_|lycoris_|diffusion_model\."
    r"|unet\.|text_encoder(?:_\d)?\."
)
UNDERSCORED = re.compile(r"lora_.*|lycoris_")  # heads behind which dots are underscores
# What PEFT and torch's pruning put into the names of whole weights.
_AROUND = re.compile(
    r"\.(?:(?:modules_to_save|ln_tuning_layers)(?:\.[^.]+)?|base_layer|original_module)(?=\.)"
)
_BESIDE = re.compile(r"_(?:orig|mask)$")
_OLD_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.")

# What has no order of units of its own, and why it cannot follow.
_METHODS: Mapping[str, str] = {
    r"(?:^|\.)lokr_": "LoKr: units are in both factors of a Kronecker product",
    r"(?:^|\.)hada_t": "LoHa with a Tucker core: its factors are in another order",
    r"(?:^|\.)b?oft_": "OFT: its rotations tie units together in blocks",
    r"(?:^|\.)vera_": "VeRA: its projections are random numbers that all layers share",
    r"(?:^|\.)prompt_": "prompts: its vectors belong to no weight",
}


# Models of their own have vectors called alpha, and parts called prompt_encoder.
_FACTORS = (Role.READS, Role.WRITES, Role.SCALE, Role.ROWS)
_TYPICAL = r"(?:^|\.)(?:lokr|hada|b?oft|vera)_"


def entry_of(name: str) -> FactorEntry:
    """Return what a tensor of an adapter is, by its name."""
    plain = _OLD_PROCESSOR.sub(_as_module, name)
    head = _HEADS.match(plain)
    start = head[0] if head else ""
    rest = plain.removeprefix(start)
    for pattern, role in _ENDS:
        found = re.search(pattern + "$", rest)
        if found:
            module = _AROUND.sub("", rest[: found.start()] + ".").removesuffix(".")
            embedding = "lora_embedding" in found[0] or role is Role.ROWS
            return FactorEntry(name, role, module + WEIGHT, found[0], start, embedding)
    target = _BESIDE.sub("", _AROUND.sub("", rest))
    return FactorEntry(name, Role.WHOLE, target, rest.rpartition(".")[2], start)


def is_adapter(names: Sequence[str]) -> bool:
    """Return whether tensors with such names are those of an adapter, and of no model."""
    return any(entry_of(name).role in _FACTORS or re.search(_TYPICAL, name) for name in names)


def known_method(name: str) -> str:
    """Return why the tensors of a method cannot follow, empty of one that can or is not known."""
    return next((why for pattern, why in _METHODS.items() if re.search(pattern, name)), "")


def _as_module(found: re.Match[str]) -> str:
    layer = found[1]
    return f".{layer}.0.lora." if layer == "to_out" else f".{layer}.lora."

"""Which tensors of a checkpoint are codes that others give their meaning, by names and dtypes.

An average of codes means nothing, and codes that move without their scales mean something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rebasin_cli.tensors import TensorInfo

_INT8 = frozenset({torch.int8})
_WHOLE = _INT8 | {torch.uint8}
_FLOAT8 = frozenset(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


@dataclass(frozen=True)
class QuantizedFormat:
    """A way to store codes.

    ending: of the codes' name; what comes before it is the stem. beside: endings behind the stem,
    one of which has to be there too; none: the name says it all. dtypes: of the codes; none: any.
    plain: the first tensor beside has the scales, by which the codes are multiplied.
    """

    kind: str
    ending: str
    beside: tuple[str, ...] = ()
    dtypes: frozenset[torch.dtype] = frozenset()
    plain: bool = False


# Where scales lie beside the codes: compressed-tensors and FBGEMM, DeepSeek, EETQ, ComfyUI.
_BEHIND = ("_scale", "_scale_inv", "_scales", ".scale", ".scales")
_INSTEAD = (".scale", ".scales", ".scale_weight")

# The more telling signs first: the first that fits counts.
FORMATS = (
    QuantizedFormat("GPTQ", ".qweight", (".g_idx",)),
    QuantizedFormat("AWQ or GPTQ", ".qweight", (".qzeros", ".scales")),
    QuantizedFormat("bitsandbytes 4-bit", "", (".absmax", ".quant_map"), _WHOLE),
    QuantizedFormat("bitsandbytes int8", ".weight", (".SCB",), _INT8, plain=True),
    QuantizedFormat("packed compressed-tensors", ".weight_packed"),
    QuantizedFormat("HQQ", ".W_q"),
    QuantizedFormat("AQLM", ".codes", (".codebooks",)),
    QuantizedFormat("quanto", "._data", ("._scale",)),
    QuantizedFormat("MXFP4", "_blocks", ("_scales",), _WHOLE),
    QuantizedFormat("int8 with scales", "", _BEHIND, _INT8, plain=True),
    QuantizedFormat("int8 with scales", ".weight", _INSTEAD, _INT8, plain=True),
    QuantizedFormat("packed codes with scales", "", _BEHIND, _WHOLE),
    QuantizedFormat("packed codes with scales", ".weight", _INSTEAD, _WHOLE),
    QuantizedFormat("fp8 with scales", "", _BEHIND, _FLOAT8, plain=True),
    QuantizedFormat("fp8 with scales", ".weight", _INSTEAD, _FLOAT8, plain=True),
)

# What else says what codes mean, or goes with the kernels that multiply by them.
COMPANIONS = (
    *_BEHIND,
    *("_zero_point", "_zero_points", ".zero_point", "_format", "_shape", "_g_idx"),
    *("_scale_2", "_global_scale", "_scale_and_zero"),
    *(".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"),
)
STEM_COMPANIONS = (
    *_INSTEAD,
    *(".SCB", ".weight_format", ".qzeros", ".g_idx", ".codebooks", "._scale"),
    *(".input_scale", ".output_scale", ".scale_input", ".input_zero_point", "_scales"),
)
# With one of these more than a product is needed.
_NOT_PLAIN = ("weight_zero_point", "weight_zero_points", ".zero_point", "_scale_2", "_global_scale")
_BITS = ("bits", "num_bits", "w_bit")  # in quantization_config


@dataclass(frozen=True)
class Codes:
    """A tensor of codes. scale: the tensor it is multiplied by; None: it takes more than that.

    others: all other tensors that go with it.
    """

    name: str
    kind: str
    scale: str | None = None
    others: tuple[str, ...] = ()


def find_codes(infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> tuple[Codes, ...]:
    """Return the tensors of codes among those of a checkpoint. config: its config.json."""
    found = tuple(_find_codes(infos)) or tuple(_unknown(infos, config))
    if _bits(config.get("quantization_config")) <= {8}:
        return found
    return tuple(replace(codes, scale=None) for codes in found)


def _bits(settings: Any) -> set[Any]:
    """Return the widths of codes that a configuration names: of others than 8 some share a byte."""
    if isinstance(settings, list):
        return {width for item in settings for width in _bits(item)}
    if not isinstance(settings, Mapping):
        return set()
    own = {settings[key] for key in _BITS if isinstance(settings.get(key), int)}
    return own | {width for value in settings.values() for width in _bits(value)}


def _find_codes(infos: Mapping[str, TensorInfo]) -> Iterator[Codes]:
    for name, info in infos.items():
        fits = (codes for form in FORMATS if (codes := _codes(name, info, form, infos)))
        yield from ([first] if (first := next(fits, None)) else [])


def _codes(
    name: str, info: TensorInfo, form: QuantizedFormat, infos: Mapping[str, TensorInfo]
) -> Codes | None:
    if not name.endswith(form.ending) or not info.shape:
        return None
    if form.dtypes and info.dtype not in form.dtypes:
        return None
    stem = name.removesuffix(form.ending)
    beside = [f"{stem}{ending}" for ending in form.beside if f"{stem}{ending}" in infos]
    if form.beside and not beside:
        return None
    stems = {stem, name.removesuffix(".weight")}
    every = [f"{name}{ending}" for ending in COMPANIONS]
    every += [f"{base}{ending}" for base in sorted(stems) for ending in STEM_COMPANIONS]
    others = tuple(dict.fromkeys(n for n in every if n in infos and n != name))
    plain = form.plain and not any(n.endswith(_NOT_PLAIN) for n in others)
    return Codes(name, form.kind, beside[0] if plain else None, others)


def _unknown(infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Iterator[Codes]:
    """Yield what can only be codes: int8 matrices, or all narrow ones if the config says so."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    kind = f"{method}, by its config.json" if settings else "int8 without scales"
    dtypes = _WHOLE | _FLOAT8 if settings else frozenset({torch.int8})
    for name, info in infos.items():
        if info.dtype in dtypes and len(info.shape) > 1 and (settings or "weight" in name):
            yield Codes(name, kind)

"""What the projections inside torch's attention read and write: no module is called for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rebasin_cli.commands.transport.layerwise.tensor_maps import AxisMap, StackedMaps, TensorMap

_INPUTS = ("query", "key", "value")


@dataclass(frozen=True)
class LayerMaps:
    """The maps of one layer, (n of the origin, n of the target) in float64; None: not seen."""

    into: Tensor | None
    out: Tensor | None


def is_projection(name: str) -> bool:
    """Return whether a layer is a projection that is no module of its own."""
    return ":" in name


def projections_of(
    name: str,
    layer: nn.MultiheadAttention,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: object,
) -> Iterator[tuple[str, bool, Tensor]]:
    """Yield what projections read and write in one call, rows (samples, n): layer, written, rows.

    What queries, keys and values are is computed from the weights, what the last projection reads
    by a second call in which it is the identity.
    """
    given = {**dict(zip(_INPUTS, args, strict=False)), **kwargs}
    more = (None, layer.bias_k, layer.bias_v)
    for kind, (weight, bias), row in zip(_INPUTS, _weights(layer), more, strict=True):
        read = given.get(kind)
        if not isinstance(read, Tensor) or not read.is_floating_point():
            return
        yield f"{name}:{kind}", False, read.flatten(0, -2)
        written = F.linear(read, weight, bias).flatten(0, -2)
        if row is not None:  # the key or value of a token that is there in every call
            written = torch.cat([written, row.flatten(0, -2)])
        yield f"{name}:{kind}", True, written
    if isinstance(output, tuple) and isinstance(output[0], Tensor):
        yield f"{name}.out_proj", False, _attended(layer, args, kwargs).flatten(0, -2)
        yield f"{name}.out_proj", True, output[0].flatten(0, -2)


def _weights(layer: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor | None]]:
    if layer.in_proj_weight is not None:
        weights = layer.in_proj_weight.chunk(3)
    else:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    bias = layer.in_proj_bias
    biases: Sequence[Tensor | None] = [None] * 3 if bias is None else bias.chunk(3)
    return list(zip(weights, biases, strict=True))


def _attended(
    layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor:
    """Return what the heads put together before the last projection."""
    last = layer.out_proj
    kept = {name: value.detach().clone() for name, value in last.named_parameters()}
    try:
        last.weight.copy_(torch.eye(len(last.weight)))
        if last.bias is not None:
            last.bias.zero_()
        found: Tensor = layer.forward(*args, **kwargs)[0]
    finally:
        for name, value in last.named_parameters():
            value.copy_(kept[name])
    return found


def attention_maps(
    name: str, layer: nn.MultiheadAttention, maps: Mapping[str, LayerMaps]
) -> dict[str, TensorMap]:
    """Return what is done to the tensors of a layer, of its own, by their names in it."""
    each = [maps.get(f"{name}:{kind}") for kind in _INPUTS]
    pairs = [(one.into, one.out) for one in each if one is not None]
    known = [(into, out) for into, out in pairs if into is not None and out is not None]
    if len(known) < len(_INPUTS):
        return {}
    weights = [AxisMap({0: out, 1: into}) for into, out in known]
    biases = [AxisMap({0: out}) for _, out in known]
    found: dict[str, TensorMap] = {
        "in_proj_weight": StackedMaps(weights),
        "in_proj_bias": StackedMaps(biases),
        "bias_k": AxisMap({2: known[1][1]}),
        "bias_v": AxisMap({2: known[2][1]}),
    }
    found |= {f"{kind[0]}_proj_weight": one for kind, one in zip(_INPUTS, weights, strict=True)}
    held = dict(layer.named_parameters(recurse=False))
    return {own: one for own, one in found.items() if held.get(own) is not None}

"""One orthogonal map for what each layer reads and one for what it writes, from activations.

A difference needs no maps that keep a function: those of one layer need not fit those of the next.
Source: Theseus, arXiv 2602.12952: with X and Y the inputs and outputs of a layer on the same data,
T_in = polar(X_A' X_B), T_out = polar(Y_A' Y_B), the difference of a weight becomes T_out' D T_in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebasin_cli.commands.transport.layerwise.attention import (
    LayerMaps,
    attention_maps,
    is_projection,
    projections_of,
)
from rebasin_cli.commands.transport.layerwise.tensor_maps import AxisMap, TensorMap
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.layers import is_turned, with_hooks
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.progress import Progress
from rebasin_cli.tensors.torch_threads import one_thread

# Of the largest singular value: what makes the identity of directions that no data show, and is
# below what data show; sums of float32 activations are right to 1e-14 there.
UNSEEN = 1e-9
# Projections side by side in one weight: queries, keys and values, or a gate and what it opens.
_FUSED = {3: re.compile(r"qkv|c_attn|in_proj|query_key_value"), 2: re.compile(r"gate_up|up_gate")}

LayerProducts = dict[tuple[str, bool], Tensor]  # of a layer's name, and whether what it writes


def layer_maps(
    origin: nn.Module, target: nn.Module, batches: Batches, progress: Progress
) -> dict[str, LayerMaps]:
    """Return the maps of all layers that both models call, by name.

    Each batch passes through both models once, and the products alone are kept. On one thread, so
    that the same is found under any load.
    """
    sums: LayerProducts = {}
    with one_thread(), torch.no_grad():
        for count, batch in enumerate(batches):
            progress("running both bases", count, batches.limit or 0)
            _add(sums, origin, target, batch)
        names = dict.fromkeys(name for name, _ in sums)
        progress("finding maps layer by layer", 0, len(names))
        return {name: LayerMaps(_map_in(sums, name), _map_out(sums, name)) for name in names}


def _add(sums: LayerProducts, origin: nn.Module, target: nn.Module, batch: Batch) -> None:
    """Add the products of one batch to the sums. Calls that only one model makes are left out."""
    seen = (_observed(model, batch) for model in (origin, target))
    first, second = (dict(one) for one in seen)
    for key in (key for key in first if key in second):
        a, b = first[key], second[key]
        if len(a) == len(b):
            product = (a.T @ b).cpu()
            place = key[:2]
            sums[place] = sums[place] + product if place in sums else product


def _observed(model: nn.Module, batch: Batch) -> list[tuple[tuple[str, bool, int], Tensor]]:
    """Return rows (samples, n) of what layers read and write in float64, by layer and call."""
    found: list[tuple[tuple[str, bool, int], Tensor]] = []
    calls: dict[str, int] = {}

    def hook(name: str, layer: nn.Module) -> Callable[..., None]:
        def see(module: nn.Module, args: Any, kwargs: Mapping[str, object], output: object) -> None:
            number = calls[name] = calls.get(name, 0) + 1
            for own, written, rows in _seen(name, layer, args, kwargs, output):
                found.append(((own, written, number), rows.to(torch.float64, copy=True)))

        return see

    with with_hooks(
        module.register_forward_hook(hook(name, module), with_kwargs=True)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ):
        call_model(model, batch)
    return found


def _seen(
    name: str,
    layer: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    output: object,
) -> Iterator[tuple[str, bool, Tensor]]:
    """Yield what one call of a layer reads and writes: of which layer, written, rows."""
    if isinstance(layer, nn.MultiheadAttention):
        yield from projections_of(name, layer, args, kwargs, output)
        return
    for value, written in ((args[0] if args else kwargs.get("input"), False), (output, True)):
        rows = _rows(layer, value)
        if rows is not None:
            yield name, written, rows


def _rows(layer: nn.Module, value: object) -> Tensor | None:
    """Return activations as (samples, units); None where they are none, or of unknown units."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return None
    axis = _unit_axis(layer, value)
    return None if axis is None else value.movedim(axis, -1).flatten(0, -2)


def _unit_axis(layer: nn.Module, value: Tensor) -> int | None:
    """Return which axis of what a layer reads or writes holds units."""
    if isinstance(layer, _ConvNd):
        return value.dim() - len(layer.kernel_size) - 1 if layer.groups == 1 else None
    if isinstance(layer, nn.Linear | nn.Embedding) or is_turned(layer):
        return value.dim() - 1
    sizes = {p.shape[0] for p in layer.parameters(recurse=False) if p.dim() == 1}
    return next((k for k in (value.dim() - 1, 1) if value.shape[k] in sizes), None)


def _map_in(sums: LayerProducts, name: str) -> Tensor | None:
    product = sums.get((name, False))
    return None if product is None else polar(product)


def _map_out(sums: LayerProducts, name: str) -> Tensor | None:
    """Return the map of what a layer writes, of fused projections one by one."""
    product, reads = sums.get((name, True)), sums.get((name, False))
    if product is None or reads is None:
        return None if product is None else polar(product)
    ours, theirs = (_parts(name, *sizes) for sizes in zip(product.shape, reads.shape, strict=True))
    if len(ours) != len(theirs):
        return polar(product)
    result = torch.zeros_like(product)
    for one, other in zip(_spans(ours), _spans(theirs), strict=True):
        result[one, other] = polar(product[one, other])
    return result


def polar(product: Tensor) -> Tensor:
    """Return U V' of the singular value decomposition U S V': the nearest orthogonal matrix.

    Between equal widths directions that no data show keep their place as far as they can; between
    others they are left out.
    """
    scale = torch.linalg.matrix_norm(product, 2)
    if not scale > 0:
        return torch.eye(*product.shape, dtype=product.dtype)
    product = product / scale
    if product.shape[0] == product.shape[1]:
        product = product + UNSEEN * torch.eye(len(product), dtype=product.dtype)
    u, values, v = torch.linalg.svd(product, full_matrices=False)
    seen = values > (0 if product.shape[0] == product.shape[1] else UNSEEN)
    nearest: Tensor = (u * seen) @ v
    return nearest


def _parts(name: str, size: int, reads: int) -> tuple[int, ...]:
    """Return the sizes of the projections side by side in what a layer writes."""
    last = name.rpartition(".")[2]
    if _FUSED[2].search(last) and size % 2 == 0:
        return (size // 2,) * 2
    if not _FUSED[3].search(last):
        return (size,)
    shared = size - reads  # of grouped queries keys and values are fewer
    return (reads, shared // 2, shared // 2) if shared > 0 and shared % 2 == 0 else (size,)


def _spans(sizes: Sequence[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def tensor_maps(model: nn.Module, maps: Mapping[str, LayerMaps]) -> dict[str, TensorMap]:
    """Return the map of each tensor of a model that the maps of its layers determine.

    A parameter of a module that is no layer is taken to lie where the first layer inside of it
    writes as many units: what is added to a first embedding.
    """
    found: dict[str, TensorMap] = {}
    for prefix, module in model.named_modules():
        inside: Mapping[str, TensorMap] = {}
        if isinstance(module, nn.MultiheadAttention):
            inside = attention_maps(prefix, module, maps)
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in held:
            own = _tensor_map(module, name, tensor, maps.get(prefix))
            one = inside.get(name) or own or _beside(prefix, tensor, maps)
            if one is not None:
                found[f"{prefix}.{name}" if prefix else name] = one
    return found


def _tensor_map(
    module: nn.Module, name: str, tensor: Tensor, maps: LayerMaps | None
) -> TensorMap | None:
    if maps is None:
        return None
    places = dict(_axes(module, name, tensor.dim()))
    chosen = {axis: maps.out if written else maps.into for axis, written in places.items()}
    if places and all(one is not None for one in chosen.values()):
        return AxisMap({axis: one for axis, one in chosen.items() if one is not None})
    if tensor.dim() == 1 and not places and maps.into is not None and maps.out is not None:
        other = maps.into if name == "running_var" else maps.out
        if other.shape == maps.into.shape:
            return AxisMap({0: maps.into * other})
    return None


def _axes(module: nn.Module, name: str, dims: int) -> Iterator[tuple[int, bool]]:
    """Yield the axes of a tensor that lie along what its layer reads (False) or writes (True).

    None of a gain, which does both on one axis.
    """
    if dims == 1 and ("bias" in name or isinstance(module, nn.Linear | _ConvNd)):
        yield 0, True
    elif name == "running_mean":
        yield 0, False
    elif isinstance(module, nn.Embedding):
        yield 1, True
    elif isinstance(module, nn.Linear | _ConvNd) or is_turned(module):
        turned = is_turned(module) or isinstance(module, _ConvTransposeNd)
        yield from ((0, not turned), (1, turned))


def _beside(prefix: str, tensor: Tensor, maps: Mapping[str, LayerMaps]) -> TensorMap | None:
    if prefix in maps or tensor.dim() < 1 or not tensor.is_floating_point():
        return None
    inside = (
        one.out
        for name, one in maps.items()
        if name.startswith(f"{prefix}." if prefix else "") and not is_projection(name)
    )
    size = tensor.shape[-1]
    out = next((one for one in inside if one is not None and one.shape[0] == size), None)
    return None if out is None else AxisMap({tensor.dim() - 1: out})

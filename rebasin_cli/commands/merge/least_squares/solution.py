"""The tensors of merged layers, solved one layer after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rebasin_cli.commands.merge.least_squares.fitting import MergedLayer, check_sums_room, sums_of
from rebasin_cli.commands.merge.least_squares.normal_equations import (
    LayerFit,
    NormalSums,
    error_of,
    solved_weights,
)
from rebasin_cli.commands.merge.least_squares.plan import SolvedMeanPlan
from rebasin_cli.commands.merge.least_squares.solvable_layers import (
    SolvableLayer,
    as_matrix,
    as_weight,
)
from rebasin_cli.commands.merge.least_squares.wider_mean import TensorAxes
from rebasin_cli.network.built import batches_of
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource

UNCALLED = "the data do not call it"


@dataclass(frozen=True)
class LayerSolution:
    """What became of layers.

    tensors: by their names in the checkpoint. fits, others: of the layers that were solved, and why
    others were not, by their names in the model.
    """

    tensors: Mapping[str, Tensor]
    fits: Mapping[str, LayerFit]
    others: Mapping[str, str]


def solved_layers(
    plan: SolvedMeanPlan,
    models: Sequence[nn.Module],
    average: TensorSource,
    axes: Mapping[str, TensorAxes],
    progress: Progress,
) -> LayerSolution:
    """Return what the layers of the merged model become.

    models: aligned. average: of them, on wider axes. axes: of the tensors that are wider.
    """
    merged = {layer.name: _merged_layer(layer, axes) for layer in plan.solvable.layers}
    check_sums_room([*merged.values()], models[0], plan.merge.machine, models=len(models))
    batches = batches_of(plan.code, plan.merge.machine)
    seen = sums_of(models, plan.shares, [*merged.values()], batches, progress)
    tensors: dict[str, Tensor] = {}
    fits: dict[str, LayerFit] = {}
    for count, layer in enumerate(x for x in plan.solvable.layers if x.name in seen.sums):
        progress("solving layer by layer", count, len(seen.sums))
        module, sums = models[0].get_submodule(layer.name), seen.sums[layer.name].cpu()
        found, fits[layer.name] = _solve(layer, module, merged[layer.name], sums, average)
        tensors |= found
    idle = {name: UNCALLED for name in merged if name not in seen.sums}
    return LayerSolution(tensors, fits, {**plan.solvable.others, **idle, **seen.uneven})


def _merged_layer(layer: SolvableLayer, axes: Mapping[str, TensorAxes]) -> MergedLayer:
    own = axes.get(layer.weight)
    return MergedLayer(layer.name, own.into, own.out) if own else MergedLayer(layer.name)


def _solve(
    layer: SolvableLayer,
    module: nn.Module,
    merged: MergedLayer,
    sums: NormalSums,
    average: TensorSource,
) -> tuple[dict[str, Tensor], LayerFit]:
    """Return the tensors of one layer; the bias is the weight of an input that is always 1."""
    held = average.load(layer.weight)
    start = as_matrix(module, held.double())
    if layer.bias is not None:
        bias = average.load(layer.bias).double().view(*start.shape[:2], 1)
        start = torch.cat([start, bias], 2)
    parts = merged.parts(start.shape[2], start.shape[1], bias=layer.bias is not None)
    found = solved_weights(sums, start, parts)
    fit = LayerFit(sums.count, error_of(sums, start), error_of(sums, found))
    wide = found.to(torch.promote_types(torch.float32, held.dtype))
    if layer.bias is None:
        return {layer.weight: as_weight(module, wide, held)}, fit
    weight = as_weight(module, wide[..., :-1], held).contiguous()
    return {layer.weight: weight, layer.bias: wide[..., -1].flatten()}, fit

"""Running the models, and the weights of their merged layers from what they do on the same data.

All layers are found in one pass of each model: what a merged layer should read and return is the
mean of what the layers of the parents do, each in its own model, not what the merged layers before
it make of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from rebasin_cli.commands.merge.least_squares.normal_equations import (
    NormalSums,
    OutputPart,
    layer_sums,
)
from rebasin_cli.commands.merge.least_squares.solvable_layers import as_matrix, rows_read
from rebasin_cli.commands.merge.least_squares.wider_axis import SHARED, WiderAxis
from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.layers import input_hook, with_hooks
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.tensors.numbers import in_float64

AT_ONCE = 1 << 22  # numbers that are widened to float64 at a time
UNEVEN = "the models do not call it on the same samples"
WORD = 8  # float64
COPIES = 4  # of the sums of a layer, beside those of all: of a batch, joined, or as it is solved


@dataclass(frozen=True)
class MergedLayer:
    """A layer of the result. into, out: where it reads, or writes, more units than one model."""

    name: str
    into: WiderAxis | None = None
    out: WiderAxis | None = None

    def parts(self, inputs: int, outputs: int, *, bias: bool) -> tuple[OutputPart, ...]:
        """Return which inputs each output may read: units of one model none of the other.

        inputs, outputs: of the wider layer, in each of its groups; the bias is the last input.
        """
        every = torch.arange(inputs)
        if self.out is None:
            return (OutputPart(torch.arange(outputs), every),)
        found = []
        for owner in sorted(set(self.out.owner.tolist())):
            rows = (self.out.owner == owner).nonzero().flatten()
            found.append(OutputPart(rows, every[self._readable(inputs - bias, bias, owner)]))
        return tuple(found)

    def _readable(self, inputs: int, bias: bool, owner: int) -> Tensor:
        if self.into is None or owner == SHARED:
            return torch.ones(inputs + bias, dtype=torch.bool)
        mine = self.into.read(owner).bool().repeat_interleave(inputs // len(self.into))
        return torch.cat([mine, torch.ones(int(bias), dtype=torch.bool)])


@dataclass(frozen=True)
class SumsOfLayers:
    """The sums of layers by name, and the layers that have none, as a router sends each model's
    samples elsewhere, with the reason.
    """

    sums: Mapping[str, NormalSums]
    uneven: Mapping[str, str]


def sums_of(
    models: Sequence[nn.Module],
    shares: Sequence[float],
    layers: Sequence[MergedLayer],
    batches: Batches,
    progress: Progress,
) -> SumsOfLayers:
    """Return the sums of all layers that are called.

    shares: of the models, they add up to 1. Raises UserCodeError if a model raises, or if numbers
    are not finite.
    """
    found: dict[str, NormalSums] = {}
    uneven: dict[str, str] = {}
    with torch.no_grad():
        for count, batch in enumerate(batches):
            progress("running the models", count, batches.limit or 0)
            seen = [_inputs_of(model, layers, batch) for model in models]
            for layer in layers:
                calls = [one.pop(layer.name) for one in seen]
                if len({tuple(value.shape for value in own) for own in calls}) > 1:
                    uneven[layer.name] = UNEVEN
                for sums in (
                    _of_batch(models, shares, layer, calls) if layer.name not in uneven else ()
                ):
                    known = found.get(layer.name)
                    found[layer.name] = known.joined(sums) if known else sums
    even = {name: sums for name, sums in found.items() if name not in uneven}
    for name, sums in even.items():
        if not sums.finite:
            raise UserCodeError(f"what layer {name!r} reads or returns is NaN or infinite")
    return SumsOfLayers(even, uneven)


def check_sums_room(
    layers: Sequence[MergedLayer], model: nn.Module, machine: Machine, *, models: int
) -> None:
    """Raise MachineError if the sums of all layers, the models and the result do not fit."""
    sums = [_room(layer, model.get_submodule(layer.name)) for layer in layers]
    held = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    needed = sum(sums) + COPIES * max(sums) + (models + 1) * held
    machine.require(
        needed,
        f"{models} models and the sums of {len(layers)} layers take",
        hint="--skip GLOB leaves layers out; or raise --max-memory",
    )


def _room(layer: MergedLayer, module: nn.Module) -> float:
    groups, outputs, inputs = as_matrix(module, module.get_parameter("weight")).shape
    wide = inputs * _growth(layer.into)
    return WORD * groups * wide * (wide + outputs * _growth(layer.out))


def _growth(axis: WiderAxis | None) -> float:
    return 1.0 if axis is None else len(axis) / axis.before


def _inputs_of(
    model: nn.Module, layers: Sequence[MergedLayer], batch: Batch
) -> dict[str, list[Tensor]]:
    """Return what layers read in one pass, call by call, as it was then."""
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    with with_hooks(
        input_hook(model.get_submodule(name), partial(_note, calls))
        for name, calls in found.items()
    ):
        call_model(model, batch)
    return found


def _note(calls: list[Tensor], read: Tensor) -> None:
    calls.append(read.clone())


def _of_batch(
    models: Sequence[nn.Module],
    shares: Sequence[float],
    layer: MergedLayer,
    seen: Sequence[Sequence[Tensor]],
) -> Iterator[NormalSums]:
    """Yield the sums of parts of what a layer reads in each model. seen: by model and call."""
    modules = [model.get_submodule(layer.name) for model in models]
    for values in zip(*seen, strict=True):
        for part in zip(*(_in_parts(modules[0], value) for value in values), strict=True):
            yield _merged_sums(modules, shares, layer, part)


def _in_parts(module: nn.Module, values: Tensor) -> Sequence[Tensor]:
    """Return parts of what a layer reads that are small enough to be unfolded in float64."""
    kernel: tuple[int, ...] = getattr(module, "kernel_size", ())
    if not kernel:
        values = values.flatten(0, -2)
    elif values.dim() == len(kernel) + 1:
        values = values[None]
    most = max(1, AT_ONCE // max(1, values[0].numel() * prod(kernel))) if len(values) else 1
    return torch.split(values, most)


def _merged_sums(
    modules: Sequence[nn.Module],
    shares: Sequence[float],
    layer: MergedLayer,
    values: Sequence[Tensor],
) -> NormalSums:
    """Return the sums of what the merged layer should read and return on the same samples."""
    inputs, outputs = [], []
    for number, (module, share, value) in enumerate(zip(modules, shares, values, strict=True)):
        rows = rows_read(module, in_float64(value))
        matrix = in_float64(as_matrix(module, module.get_parameter("weight")))
        written = rows @ matrix.mT
        if module.bias is not None:
            written = written + in_float64(module.get_parameter("bias")).view(len(rows), 1, -1)
        inputs.append(_placed(rows, layer.into, number, share))
        outputs.append(_placed(written, layer.out, number, share))
    z, y = sum(inputs[1:], inputs[0]), sum(outputs[1:], outputs[0])
    if modules[0].bias is not None:
        z = torch.cat([z, torch.ones_like(z[..., :1])], 2)
    return layer_sums(z, y)


def _placed(values: Tensor, axis: WiderAxis | None, model: int, share: float) -> Tensor:
    """Return one model's values spread over the places of a merged axis; (..., places * taps)."""
    if axis is None:
        return share * values
    taps = values.shape[-1] // axis.before
    apart = values.reshape(*values.shape[:-1], axis.before, taps)
    found = apart.index_select(-2, axis.source.to(values.device))
    return (found * axis.written(model, share).to(values.device)[:, None]).flatten(-2)

"""What becomes of activations halfway between two aligned models, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rebasin_cli.commands.barrier.layers.confidence import (
    ConfidenceCalibration,
    measure_calibration,
)
from rebasin_cli.commands.barrier.layers.sums import LayerSums, SampledOutputs, layer_sums
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.errors import UserCodeError
from rebasin_cli.merging.sources import Mean
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.batch_inputs import fit_batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.layers import Layer, layers_of, observe_layers
from rebasin_cli.network.scoring.answers import counted_answers
from rebasin_cli.network.scoring.scores import call_model, logits_of
from rebasin_cli.progress import Progress, silent
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.trees import map_leaves, tensors_in

INTEGERS = "the inputs are integers, of which none is zero"

LayerOutputs = Mapping[str, Tensor]
Calibrations = tuple[ConfidenceCalibration, ...]


class Trio(NamedTuple):
    """Two models whose units match one by one, and their midpoint; in eval mode."""

    a: nn.Module
    b: nn.Module
    midpoint: nn.Module


@dataclass(frozen=True)
class LayerFigures:
    """One layer of the midpoint compared with the same layer of its parents.

    Every position of an output counts as a sample.

    variance: of the midpoint's units over the mean of the parents'. response: |f(x) - f(0)| of
    the midpoint over the mean of the parents', None where there is no zero input. similarity:
    linear CKA of the parents, which no permutation of units changes; None for too many units.
    correlation: of unit k of A with unit k of B, on average; None where none varies.
    """

    name: str
    kind: str
    norm: bool
    units: int
    variance: float | None
    response: float | None
    similarity: float | None
    correlation: float | None


@dataclass(frozen=True)
class LayerDiagnosis:
    """The layers in the order in which they are called, and the models as a whole.

    calibration: expected calibration error of A, B and the midpoint; None without targets.
    no_zero: why no layer has a response; empty if they have one.
    """

    layers: tuple[LayerFigures, ...]
    calibration: tuple[float, float, float] | None
    no_zero: str = ""


def diagnose_layers(trio: Trio, batches: Batches, *, progress: Progress = silent) -> LayerDiagnosis:
    """Return the figures of two models and their midpoint from one pass over batches.

    Each batch is run twice, the second time as zeros of the same shape; integers among floating
    inputs stay. Raises UserCodeError if a model raises or none of its layers is called.
    """
    sums: dict[str, LayerSums] = {}
    sure: list[Calibrations] = []
    possible = True
    with torch.no_grad():
        for count, yielded in enumerate(batches):
            progress("diagnosing", count, batches.limit or 0)
            batch = fit_batch(yielded, trio.midpoint)
            returned, outputs = _passes(trio, batch)
            zero = _zero(batch)
            possible = zero is not None
            zeros = _passes(trio, zero)[1] if zero is not None else None
            for name, seen in _together(outputs, zeros).items():
                found = layer_sums(seen)
                sums[name] = sums[name].joined(found) if name in sums else found
            sure.append(_calibrations(returned, batch))
    if not sums:
        raise UserCodeError("the model calls no layer whose units could be measured")
    layers = {layer.name: layer for layer in layers_of(trio.midpoint)}
    return LayerDiagnosis(
        tuple(_figures(layers[name], found) for name, found in sums.items()),
        _errors(sure),
        "" if possible else INTEGERS,
    )


def _passes(trio: Trio, batch: Batch) -> tuple[list[Any], list[LayerOutputs]]:
    """Return what each model answers to a batch, and the samples of its layers."""
    returned: list[Any] = []
    outputs: list[LayerOutputs] = []
    for model in trio:
        layers = {layer.name: layer for layer in layers_of(model)}
        seen: dict[str, list[Tensor]] = {}

        def see(name: str, value: Tensor, into: Any = seen, known: Any = layers) -> None:
            into.setdefault(name, []).append(known[name].samples(value))

        with observe_layers(list(layers.values()), see):
            returned.append(call_model(model, batch))
        outputs.append({name: torch.cat(samples) for name, samples in seen.items()})
    return returned, outputs


def _together(
    outputs: Sequence[LayerOutputs], zeros: Sequence[LayerOutputs] | None
) -> dict[str, SampledOutputs]:
    """Return the samples of all three models layer by layer, for layers that all three call."""
    a, b, midpoint = outputs
    found = {}
    for name in (name for name in a if name in b and name in midpoint):
        still = (zeros[0][name], zeros[1][name], zeros[2][name]) if zeros else None
        found[name] = SampledOutputs(a[name], b[name], midpoint[name], still)
    return found


def _zero(batch: Batch) -> Batch | None:
    """Return a batch with zeros for all floating inputs, or None if it has none."""
    given = batch.example.args, dict(batch.example.kwargs)
    if not any(tensor.is_floating_point() for tensor in tensors_in(given)):
        return None
    return Batch(Example(*map_leaves(given, Tensor, _zeros_if_real)))


def _zeros_if_real(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor


def _calibrations(returned: Sequence[Any], batch: Batch) -> Calibrations:
    """Return the calibration of each model on one batch; none without targets."""
    targets = batch.targets
    if targets is None:
        return ()
    found = [counted_answers(logits_of(one), targets, batch) for one in returned]
    return tuple(measure_calibration(each.rows, each.right) for each in found)


def _errors(batches: Sequence[Calibrations]) -> tuple[float, float, float] | None:
    """Return the error of each model over all batches, if all have targets."""
    if not all(batches):
        return None
    a, b, midpoint = (
        reduce(ConfidenceCalibration.joined, one).error for one in zip(*batches, strict=True)
    )
    return a, b, midpoint


def _figures(layer: Layer, sums: LayerSums) -> LayerFigures:
    return LayerFigures(
        name=layer.name,
        kind=type(layer.module).__name__,
        norm=layer.norm,
        units=len(sums.a.mean),
        variance=sums.variance,
        response=sums.response,
        similarity=sums.similarity,
        correlation=sums.correlation,
    )


@dataclass(frozen=True)
class DiagnosedLayers:
    """The layers halfway between two models. aligned: they were, here or before."""

    models: tuple[Path, ...]
    diagnosis: LayerDiagnosis
    aligned: bool
    seconds: float


def diagnose_midpoint(
    plan: BarrierPlan, ends: Sequence[TensorSource], progress: Progress, *, aligned: bool
) -> DiagnosedLayers:
    """Return the figures of the layers of two models and of their midpoint."""
    began = perf_counter()
    midpoint = Mean(ends, (0.5, 0.5), 0, plan.request.selection.selects)
    network, machine = plan.code.network, plan.machine
    trio = Trio(*(build_network(network, source, machine) for source in (*ends, midpoint)))
    found = diagnose_layers(trio, batches_of(plan.code, machine), progress=progress)
    paths = tuple(model.path for model in plan.models)
    return DiagnosedLayers(paths, found, aligned, perf_counter() - began)

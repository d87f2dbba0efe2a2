"""Comparing two checkpoints unit by unit, on the device and within the memory of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.matching.diagnostics.relation import (
    UnitComparison,
    compare_by_unit,
    compare_by_unit_fully,
)
from rebasin_cli.matching.problem.device_tensors import DeviceTensors, working_dtype
from rebasin_cli.matching.problem.measure import Measured, measure
from rebasin_cli.merging.overlap import EQUAL, CommonPart, Overlap
from rebasin_cli.options.display import Display
from rebasin_cli.options.machine import Machine
from rebasin_cli.permutation import Permutations
from rebasin_cli.spec_choice.choice import Choice

ModelPair = tuple[Checkpoint, Checkpoint]


def compare_units_of(
    models: ModelPair,
    choice: Choice,
    machine: Machine,
    display: Display,
    permutations: Permutations,
    *,
    overlap: Overlap = EQUAL,
) -> UnitComparison | None:
    """Return the figures of a reference and a permuted model, as many as are asked for.

    overlap: where the model's shapes are not the reference's.
    """
    if not display.figures:
        return None
    figures = compare_by_unit_fully if display.margins else compare_by_unit
    return figures(*_on_device(models, machine, overlap), choice.bound, permutations)


def compare_as_they_are(
    models: ModelPair, choice: Choice, machine: Machine, display: Display
) -> GroupComparison:
    """Return the figures of two models as they are, under a spec."""
    figures = compare_by_unit_fully if display.margins else compare_by_unit
    sources = _on_device(models, machine, EQUAL)
    return GroupComparison(
        spec=choice.name,
        measured=measure(*sources, choice.bound, {}),
        comparison=figures(*sources, choice.bound, {}),
    )


def _on_device(
    models: ModelPair, machine: Machine, overlap: Overlap
) -> tuple[DeviceTensors, DeviceTensors]:
    """Return the tensors as the search sees them: on the device, in float32 or wider, checked."""
    device = torch.device(machine.device)
    dtype = working_dtype(device, *models)
    first, other = models
    loaded = (
        DeviceTensors(
            source,
            label=str(model.path),
            device=device,
            dtype=dtype,
            limit=machine.max_memory // 2,
        )
        for model, source in ((first, first), (other, CommonPart(other, overlap)))
    )
    reference, second = loaded
    return reference, second


@dataclass(frozen=True)
class GroupComparison:
    """Two checkpoints group by group under a spec, as they are."""

    spec: str
    measured: Measured
    comparison: UnitComparison

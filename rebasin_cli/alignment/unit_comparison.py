"""Comparing two checkpoints unit by unit, on the device and within the memory of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.matching.diagnostics.relation import Detail, compare_models
from rebasin_cli.matching.problem.device_tensors import DeviceTensors, working_dtype
from rebasin_cli.matching.problem.measure import Measured
from rebasin_cli.matching.problem.result import Matching, UnitComparison
from rebasin_cli.merging.overlap import EQUAL, CommonPart, Overlap
from rebasin_cli.options.display import Display
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec_choice.choice import Choice

ModelPair = tuple[Checkpoint, Checkpoint]


def compare_units_of(
    models: ModelPair,
    choice: Choice,
    machine: Machine,
    display: Display,
    found: Matching,
    *,
    overlap: Overlap = EQUAL,
    progress: Progress = silent,
) -> UnitComparison | None:
    """Return the figures of a reference and a permuted model, as many as are asked for.

    They are those of the matching where it has any. overlap: where the model's shapes are not the
    reference's.
    """
    detail = detail_for(display)
    if detail is None or found.comparison:
        return found.comparison
    sources = _on_device(models, machine, overlap)
    permutations = found.permutations
    return compare_models(*sources, choice.bound, permutations, detail, progress=progress)[1]


def detail_for(display: Display) -> Detail | None:
    """Return how far models are compared for what is shown of them."""
    if display.margins:
        return "margins"
    return "units" if display.figures else None


def compare_as_they_are(
    models: ModelPair, choice: Choice, machine: Machine, display: Display
) -> GroupComparison:
    """Return the figures of two models as they are, under a spec."""
    sources = _on_device(models, machine, EQUAL)
    detail: Detail = "margins" if display.margins else "units"
    measured, comparison = compare_models(*sources, choice.bound, {}, detail)
    assert comparison is not None
    return GroupComparison(choice.name, measured, comparison)


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

"""Comparing two checkpoints unit by unit, on the device and within the memory of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.matching import Diagnosis, Measured, diagnose, diagnose_fully, measure
from rebasin_cli.matching.problem.device_tensors import Loaded, working_dtype
from rebasin_cli.merging.overlap import EQUAL, CommonPart, Overlap
from rebasin_cli.options.display import Display
from rebasin_cli.options.machine import Machine
from rebasin_cli.permutation import Permutations
from rebasin_cli.spec_choice.choice import Choice

Models = tuple[Checkpoint, Checkpoint]


def diagnosed(
    models: Models,
    choice: Choice,
    machine: Machine,
    display: Display,
    permutations: Permutations,
    *,
    overlap: Overlap = EQUAL,
) -> Diagnosis | None:
    """Return the figures of a reference and a permuted model, as many as are asked for.

    overlap: where the model's shapes are not the reference's.
    """
    if not display.figures:
        return None
    figures = diagnose_fully if display.margins else diagnose
    return figures(*_on_device(models, machine, overlap), choice.bound, permutations)


def diagnosed_as_is(
    models: Models, choice: Choice, machine: Machine, display: Display
) -> Diagnosed:
    """Return the figures of two models as they are, under a spec."""
    figures = diagnose_fully if display.margins else diagnose
    sources = _on_device(models, machine, EQUAL)
    return Diagnosed(
        spec=choice.name,
        measured=measure(*sources, choice.bound, {}),
        diagnosis=figures(*sources, choice.bound, {}),
    )


def _on_device(models: Models, machine: Machine, overlap: Overlap) -> tuple[Loaded, Loaded]:
    """Return the tensors as the search sees them: on the device, in float32 or wider, checked."""
    device = torch.device(machine.device)
    dtype = working_dtype(device, *models)
    first, other = models
    loaded = (
        Loaded(
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
class Diagnosed:
    """Two checkpoints group by group under a spec, as they are."""

    spec: str
    measured: Measured
    diagnosis: Diagnosis

"""The plan of `rebasin diff`, which writes nothing: two models, and a spec if one is named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching, estimate_comparison
from rebasin_cli.alignment.problem import open_problem
from rebasin_cli.alignment.unit_comparison import GroupComparison
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.diff.command import DiffRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations, rotates
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.spec_choice.choice import Choice


@dataclass(frozen=True)
class DiffPlan:
    """Two models to compare.

    choice: the spec for a comparison of groups; None: tensors only. rotation: the models, where B
    is to be brought into A's frame first.
    """

    models: tuple[Checkpoint, Checkpoint]
    choice: Choice | None
    machine: Machine
    request: DiffRequest
    rotation: RotationProblem | None = None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        search = self.request.search
        spec = describe_matching(self.choice, self.machine, search, self.models)
        if self.choice:
            spec["memory"] = estimate_comparison(
                self.choice, self.machine, self.models, margins=self.request.display.margins
            )
        if self.rotation:
            spec |= describe_matching(self.rotation.choice, self.machine, search, self.models)
            spec |= self.rotation.describe()
        return {"command": "diff", "inputs": describe_inputs(self.models), **spec}


def plan_diff(request: DiffRequest) -> DiffPlan:
    """Return what will be compared; nothing is read but headers.

    Under a spec the two must have the same tensors, else CheckpointError; without, they need not.
    """
    paths = [request.a, request.b]
    if rotates(request.symmetry):
        return _plan_rotated(request)
    if request.selection.spec is None and request.tracing.target is None:
        first, second = open_models(paths, request.selection)
        _refuse_companions(request)
        machine = plan_machine(request.computing, request.search)
        return DiffPlan((first, second), None, machine, request)
    problem = open_problem(paths, request)
    first, second = problem.models
    return DiffPlan((first, second), problem.choice, problem.machine, request)


def _plan_rotated(request: DiffRequest) -> DiffPlan:
    """Return what will be compared in one frame; no model is run."""
    unchecked = replace(request, computing=replace(request.computing, check=False))
    problem = open_rotations([request.a, request.b], unchecked)
    first, second = problem.models
    return DiffPlan((first, second), None, problem.machine, request, problem)


def _refuse_companions(request: DiffRequest) -> None:
    for flag, given in (("--set", request.selection.sizes), ("--strict", request.selection.strict)):
        if given:
            raise UsageError(
                f"{flag} is about a spec, and diff compares tensors only without one",
                hint="--spec NAME or --model TARGET compares groups too",
            )


@dataclass(frozen=True)
class TensorChange:
    """How one tensor differs between two checkpoints.

    kind: `equal`, `values`, `dtype`, `shape`, `only in A` or `only in B`.
    distance: |A - B|; norm: |A|; max_difference: the largest entry of |A - B|.
    """

    name: str
    kind: str
    detail: str = ""
    distance: float = 0.0
    norm: float = 0.0
    max_difference: float = 0.0


@dataclass(frozen=True)
class RotatedFrame:
    """How a model was brought into another's frame. The fields are those of `VerifiedRotation`."""

    spec: str
    classes: dict[str, int]
    cosine: Change
    sweeps: int
    rounding: float
    tied: float | None


@dataclass(frozen=True)
class Compared:
    """Two checkpoints tensor by tensor. changes: only those that differ.

    groups: the two group by group, if a spec was named. frame: how B came into A's, if it did;
    `values` then are those that differ by more than rounding, both models folded.
    """

    a: Path
    b: Path
    tensors: int
    changes: tuple[TensorChange, ...]
    distance: float
    norm: float
    groups: GroupComparison | None = None
    frame: RotatedFrame | None = None

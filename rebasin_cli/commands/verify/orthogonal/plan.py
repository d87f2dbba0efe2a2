"""The plan of `rebasin verify --symmetry orthogonal`, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.verify.plan import VerifyRequest, plan_save
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations
from rebasin_cli.matching.problem.result import Change


@dataclass(frozen=True)
class VerifyRotationPlan:
    """All that `run_verify_rotation` needs. save: where the maps go, if anywhere."""

    problem: RotationProblem
    save: OutputPlace | None
    request: VerifyRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        problem = self.problem
        return {
            "command": "verify",
            "inputs": describe_inputs(problem.models),
            "permutation": str(self.save.path) if self.save else None,
            **describe_matching(problem.choice, problem.machine),
            **problem.describe(),
        }


def plan_verify_rotation(request: VerifyRequest) -> VerifyRotationPlan:
    """Return what verifying will do; nothing is read but headers."""
    if request.tracing.target is None:  # no model is run but one that is named
        request = replace(request, computing=replace(request.computing, check=False))
    problem = open_rotations([request.a, request.b], request)
    return VerifyRotationPlan(problem, plan_save(request, problem.models), request)


@dataclass(frozen=True)
class VerifiedRotation:
    """Whether B is A with its units rotated, once the norms of both are folded.

    classes: by class of maps, how many groups have it. cosine: of the folded models, before and
    after matching. different: names of the tensors that differ by more than rounding, and by how
    much: |A - moved B| / |A|. max_difference: the largest of all. rounding: the share that storing
    in `dtype`, the coarsest of the two, may make. tied: see `Folded`; of the worse of the two.
    function: how far the outputs of the two are apart, if a model was named to run them.
    """

    a: Path
    b: Path
    spec: str
    classes: dict[str, int]
    cosine: Change
    sweeps: int
    different: Mapping[str, float]
    max_difference: float
    rounding: float
    dtype: str
    saved: Written | None
    tied: float | None = None
    function: FunctionDifference | None = None

    @property
    def rotated(self) -> bool:
        return not self.different

    @property
    def holds(self) -> bool:
        """Whether the answer is yes. Rounded weights give other outputs, and are still a copy."""
        return self.rotated or bool(self.function and self.function.same)

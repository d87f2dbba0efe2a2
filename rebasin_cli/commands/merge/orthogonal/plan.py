"""The plan of `rebasin merge --symmetry orthogonal`: whose frame the others are rotated into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.mixture import MixedModels
from rebasin_cli.commands.merge.plan import plan_choices, plan_mean_target
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.folding.rotation_data import ACTIVATIONS, describe_data, plan_rotation_code
from rebasin_cli.folding.rotation_problem import (
    METHODS,
    HeldModels,
    RotationProblem,
    open_rotations,
)
from rebasin_cli.network.network import UserCode

STAR, UNIVERSE = "star", "universe"


@dataclass(frozen=True)
class RotatedMergePlan:
    """All that `run_rotated_merge` needs.

    reference: the number of the model in whose frame the others come. strategy: `STAR` or
    `UNIVERSE`. code: the model and the data that maps are found by; None: by weights. target: of
    the mean.
    """

    problem: RotationProblem
    mixture: MixedModels
    reference: int
    strategy: str
    code: UserCode | None
    target: Target
    request: MergeRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        problem = self.problem
        return {
            "command": "merge",
            "inputs": describe_inputs(problem.models),
            "weights": list(self.mixture.weights.models),
            **self.mixture.describe(),
            "reference": str(problem.models[self.reference].path),
            "strategy": self.strategy,
            **describe_data(self.request.data, self.code),
            "outputs": [describe_target(self.target)],
            **describe_matching(
                problem.choice, problem.machine, self.request.search, problem.models
            ),
            **problem.describe(),
        }


def plan_rotated_merge(request: MergeRequest) -> RotatedMergePlan:
    """Return what averaging models that are rotated will do; nothing is read but headers."""
    asked = plan_choices(request)
    _check(request)
    methods = (*METHODS, ACTIVATIONS)
    runs = request.search.method == ACTIVATIONS
    held = HeldModels("--method activations", run=len(request.paths)) if runs else None
    problem = open_rotations(request.paths, request, methods=methods, tie=request.tie, held=held)
    return RotatedMergePlan(
        problem=problem,
        mixture=asked.mixture(request, problem.models),
        reference=asked.reference,
        strategy=request.strategy or STAR,
        code=_code(problem, asked.reference, request),
        target=plan_mean_target(problem.models, request),
        request=request,
    )


def _code(problem: RotationProblem, reference: int, request: MergeRequest) -> UserCode | None:
    """Return the model and the data, if they are run."""
    if request.search.method == ACTIVATIONS:
        return plan_rotation_code(problem, request, reference=reference)
    if request.data.data is not None:
        raise UsageError("matching by weights uses no data", hint="--method activations")
    return None


def _check(request: MergeRequest) -> None:
    """Raise UsageError for other ways to merge, which know nothing of rotations."""
    if request.strategy not in (None, STAR, UNIVERSE):
        raise UsageError(
            f"--strategy {request.strategy} does not go with --symmetry orthogonal",
            hint="--strategy star: each model to the reference (--ref); or universe: each to the "
            "mean of the others",
        )
    if request.preserve_first is not None:
        raise UsageError("--preserve-first permutes units, and --symmetry orthogonal rotates them")
    if request.renormalization is not None:
        raise UsageError(
            "--renormalize does not go with --symmetry orthogonal",
            hint="rebasin renormalize corrects the result",
        )

"""The plan of `rebasin merge --symmetry orthogonal`: whose frame the others are rotated into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.commands.merge.plan import plan_mean_target, weights_and_reference
from rebasin_cli.commands.merge.request import MergeRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations

STAR = "star"


@dataclass(frozen=True)
class RotatedMergePlan:
    """All that `run_rotated_merge` needs.

    reference: the number of the model that the others are rotated next to. target: of the mean.
    """

    problem: RotationProblem
    weights: tuple[float, ...]
    reference: int
    target: Target
    request: MergeRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        problem = self.problem
        return {
            "command": "merge",
            "inputs": describe_inputs(problem.models),
            "weights": list(self.weights),
            "reference": str(problem.models[self.reference].path),
            "strategy": STAR,
            "outputs": [describe_target(self.target)],
            **describe_matching(problem.choice, problem.machine),
            **problem.describe(),
        }


def plan_rotated_merge(request: MergeRequest) -> RotatedMergePlan:
    """Return what averaging models that are rotated will do; nothing is read but headers."""
    weights, reference = weights_and_reference(request)
    _check(request)
    problem = open_rotations(request.models, request)
    target = plan_mean_target(problem.models, request)
    return RotatedMergePlan(problem, weights, reference, target, request)


def _check(request: MergeRequest) -> None:
    """Raise UsageError for other ways to merge, which know nothing of rotations."""
    if request.strategy not in (None, STAR):
        raise UsageError(
            f"--strategy {request.strategy} does not go with --symmetry orthogonal",
            hint="--strategy star, which is what it does: each model to the reference (--ref)",
        )
    if request.preserve_first is not None:
        raise UsageError("--preserve-first permutes units, and --symmetry orthogonal rotates them")
    if request.renormalization is not None:
        raise UsageError(
            "--renormalize does not go with --symmetry orthogonal",
            hint="rebasin renormalize corrects the result",
        )

"""The plan of `rebasin verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.problem import open_problem
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.verify.command import VerifyRequest
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.output_names import permutation_paths
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.options.machine import Machine
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.wording import count


@dataclass(frozen=True)
class VerifyPlan:
    """All that `run_verify` needs. save: where the permutation goes, if anywhere."""

    a: Checkpoint
    b: Checkpoint
    choice: Choice
    save: OutputPlace | None
    machine: Machine
    request: VerifyRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "verify",
            "inputs": describe_inputs([self.a, self.b]),
            "permutation": str(self.save.path) if self.save else None,
            **describe_matching(self.choice, self.machine, self.request.search, [self.a, self.b]),
        }


def plan_verify(request: VerifyRequest) -> VerifyPlan:
    """Return what verifying will do; nothing is read but headers."""
    problem = open_problem([request.a, request.b], request)
    first, second = problem.models
    place = plan_save(request, problem.models)
    return VerifyPlan(first, second, problem.choice, place, problem.machine, request)


def plan_save(request: VerifyRequest, models: Sequence[Checkpoint]) -> OutputPlace | None:
    """Return where what is found between the models goes, if it is to be saved."""
    if request.save is None:
        return None
    (path,) = permutation_paths([models[1]], request.save)
    inputs = [file for model in models for file in files_of(model)]
    create = request.save.endswith("/")
    return plan_place(path, request.output, others=inputs, create=create)


@dataclass(frozen=True)
class Verified:
    """Whether B is A with its units reordered.

    different: names of the tensors that differ even under the best permutation found.
    max_difference: largest |A - permuted B| over the largest |A|, in those tensors.
    function: how far the outputs of the two are apart, if a model was named to run them.
    """

    a: Path
    b: Path
    spec: str
    matching: Matching
    different: tuple[str, ...]
    max_difference: float
    permutation: Written | None
    alike: tuple[str, ...] = ()
    function: FunctionDifference | None = None

    def __bool__(self) -> bool:
        return self.holds

    def __repr__(self) -> str:
        told = f"{count(len(self.different), 'tensor')} of another value, spec {self.spec}"
        return f"<Verified {bool(self)}: {self.a}, {self.b}, {told}>"

    @property
    def exact(self) -> bool:
        return not self.different

    @property
    def holds(self) -> bool:
        """Whether the answer is yes: the same function if a model was run, else the same bits."""
        return self.function.same if self.function else self.exact

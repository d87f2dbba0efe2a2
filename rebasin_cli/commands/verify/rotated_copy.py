"""`rebasin verify --symmetry orthogonal`: is a model a rotated copy of another?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.alignment.report import agreement_fields, agreement_text
from rebasin_cli.alignment.unit_report import before_and_after
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.verify.command import VerifyRequest
from rebasin_cli.commands.verify.plan import plan_save
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.folding.fold_report import tied_lines
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.folding.rotated_outcome import count_classes
from rebasin_cli.folding.rotated_pair import rotate_pair, rounding_of, share_apart
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations
from rebasin_cli.folding.rotation_report import maps_text
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import file_fields
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource, dtype_name
from rebasin_cli.wording import and_more, count, shorten


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
            **describe_matching(
                problem.choice, problem.machine, self.request.search, problem.models
            ),
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


def run_verify_rotation(plan: VerifyRotationPlan, progress: Progress) -> Iterator[VerifiedRotation]:
    """Yield whether B is A with its units rotated: every tensor is compared, both being folded.

    Each by itself, since small ones vanish in the sum of all.
    """
    problem, selection = plan.problem, plan.request.selection
    a, b = problem.models
    pair = rotate_pair(problem, selection, progress)
    found = pair.found
    names = _compared_names(plan)
    progress("comparing", 0, 0)
    apart = {n: share_apart(pair.reference.load(n), pair.moved.load(n)) for n in names}
    allowed = {name: rounding_of(a.info(name), b.info(name)) for name in names}
    yield VerifiedRotation(
        a=a.path,
        b=b.path,
        spec=problem.choice.name,
        classes=count_classes(problem.folding.classes),
        cosine=found.cosine,
        sweeps=found.sweeps,
        different={name: share for name, share in apart.items() if share > allowed[name]},
        max_difference=max(apart.values(), default=0.0),
        rounding=max(allowed.values(), default=0.0),
        dtype=_coarsest(a, b, names),
        saved=save_maps(plan.save, found.maps, problem.folding, (a, b), selection.sizes),
        tied=pair.tied,
        function=_compared_functions(plan),
    )


def _compared_names(plan: VerifyRotationPlan) -> list[str]:
    a, b = plan.problem.models
    theirs = set(b.names())
    return [n for n in a.names() if n in theirs and plan.request.selection.selects(n)]


def _coarsest(a: TensorSource, b: TensorSource, names: list[str]) -> str:
    """Return the name of the floating dtype with the fewest digits."""
    dtypes = {source.info(n).dtype for source in (a, b) for n in names if source.info(n).floating}
    worst = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    return dtype_name(worst)


def _compared_functions(plan: VerifyRotationPlan) -> FunctionDifference | None:
    """Return how far apart A and B are as functions, if the user named a model to run."""
    check = plan.problem.check
    return compare_functions(check, *plan.problem.models) if check else None


_SHOWN = 5  # tensors that differ the most


def rotation_verdict(outcome: VerifiedRotation) -> str:
    """Return whether one model is a rotated copy of another, as one sentence."""
    a, b = outcome.a, outcome.b
    if outcome.rotated:
        return (
            f"{b} is {a} with its units rotated, to the rounding of {outcome.dtype}: tensors "
            f"differ by up to {outcome.max_difference:.2g} of their length"
        )
    if outcome.holds:
        return f"{b} computes what {a} does, but is not a rotated copy of it"
    return (
        f"{b} is not a rotated copy of {a}: {count(len(outcome.different), 'tensor')} differ under "
        f"the best maps found, by up to {outcome.max_difference:.3g} of the tensor's length, and "
        f"the rounding of {outcome.dtype} is {outcome.rounding:.2g}"
    )


def rotation_text(outcome: VerifiedRotation) -> str:
    """Return what the verdict is founded on."""
    lines = [f"  {maps_text(outcome)}, spec {outcome.spec}"]
    worst = sorted(outcome.different.items(), key=lambda item: -item[1])
    different = [f"differs: {name}, by {share:.2g}" for name, share in worst]
    lines += [f"  {line}" for line in shorten(different, _SHOWN, and_more)]
    lines += tied_lines(outcome.tied)
    lines += _function_lines(outcome.function)
    return "\n".join(lines)


def _function_lines(function: FunctionDifference | None) -> list[str]:
    """Return how far outputs are apart; of rounded weights they are, and it is no verdict."""
    if function is None:
        return []
    if function.same:
        return [f"  {agreement_text(function)}"]
    inputs = count(function.inputs, "random input")
    apart = f"outputs differ by {function.difference:.2g} of their scale"
    return [f"  {apart} ({inputs}, {function.dtype})"]


def _fields(outcome: VerifiedRotation) -> dict[str, Any]:
    return {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "symmetry": "orthogonal",
        "spec": outcome.spec,
        "maps": outcome.classes,
        "rotated": outcome.rotated,
        "max_difference": outcome.max_difference,
        "rounding": outcome.rounding,
        "dtype": outcome.dtype,
        "different": list(outcome.different),
        "cosine": before_and_after(outcome.cosine),
        "sweeps": outcome.sweeps,
        "tied": outcome.tied,
        **agreement_fields(outcome.function),
        **file_fields(outcome.saved),
    }


PRESENTERS: Presenters = {
    VerifiedRotation: Presenter(
        fields=_fields,
        text=rotation_verdict,
        summary=rotation_text,
        code=lambda outcome: int(not outcome.holds),
    )
}

"""The plan of aligning by orthogonal maps: both sides are folded, and both are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.kept_state import check_state_place
from rebasin_cli.commands.align.learning import Learning, check_held_out
from rebasin_cli.commands.align.outputs import check_models_given, plan_saves, plan_targets
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths, permutation_paths
from rebasin_cli.files.places import OutputPlace, check_distinct, files_of
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.folding.rotation_data import ACTIVATIONS, describe_data, plan_rotation_code
from rebasin_cli.folding.rotation_problem import (
    METHODS,
    HeldModels,
    RotationProblem,
    check_rotating,
    plan_rotations,
    tell_unsearched,
)
from rebasin_cli.network.network import UserCode
from rebasin_cli.options.activations import Activations
from rebasin_cli.resuming.finished import plan_finished


@dataclass(frozen=True)
class OrthogonalPlan:
    """All that `run_orthogonal` needs.

    problem: the models, the reference first. targets: of the folded reference, then of each moved
    model. places: where the maps of each model are saved. code: the model and the data that maps
    are found or learned from, if they are.
    """

    problem: RotationProblem
    targets: tuple[Target, ...]
    places: tuple[OutputPlace | None, ...]
    code: UserCode | None
    request: AlignRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "align",
            "inputs": describe_inputs(self.problem.models),
            "outputs": [describe_target(target) for target in self.targets],
            "learn": self.request.learn,
            **describe_data(self.request.data, self.code),
            "spec": self.problem.choice.name,
            **self.problem.describe(),
        }


def plan_orthogonal(request: AlignRequest, *, held: HeldModels | None = None) -> OrthogonalPlan:
    """Return what aligning by orthogonal maps will do; nothing is read but headers.

    held: as of `plan_rotations`, beside what is in the request.
    """
    _check_options(request)
    if held is None:  # else permutations are searched for too
        tell_unsearched(request)
    check_models_given(request)
    models = open_models(request.models, request.selection)
    problem = plan_rotations(models, request, held=held or _held(request), tie=request.tie)
    check_state_place(problem.models, request.learning_options.resume)
    outs, saves = _paths(problem.models, request)
    every = [*outs, *saves]
    finished = plan_finished(request.finished, "align", problem.models, every, request.output)
    inputs = [file for model in problem.models for file in files_of(model)]
    targets = plan_targets(problem.models, outs, inputs, finished, request)
    code = _code(problem, request)
    places = plan_saves(saves, inputs, finished, request)
    return OrthogonalPlan(problem, tuple(targets), tuple(places), code, request)


def _held(request: AlignRequest) -> HeldModels | None:
    """Return which option takes models in memory, if one does."""
    if request.learn:
        return HeldModels("--learn", run=3)  # both ends, and the midpoint
    if request.search.method == ACTIVATIONS:
        return HeldModels("--method activations", run=2)
    return None


def _code(problem: RotationProblem, request: AlignRequest) -> UserCode | None:
    """Return the model and the data, if they are run."""
    if request.learn or request.search.method == ACTIVATIONS:
        return plan_rotation_code(problem, request)
    if request.data.data is not None:
        raise UsageError(
            "matching by weights uses no data", hint="--method activations, or --learn 150"
        )
    return None


def _check_options(request: AlignRequest) -> None:
    """Raise UsageError for options that orthogonal maps know nothing of."""
    check_rotating(request, methods=(*METHODS, ACTIVATIONS))
    learning = request.learning_options
    taken = Learning(held_out=learning.held_out, resume=learning.resume)
    if learning != (taken if request.learn or request.select else Learning()):
        raise UsageError(
            "--epochs, --learning-rate, --check-every are of straight-through, --held-out also of "
            "--learn",
            hint="--learn 150 learns maps, from --data",
        )
    check_held_out(learning)
    if request.activations != Activations():
        raise UsageError(
            "--statistics, --similarity, --mix, --point and --stream are of permutations"
        )


def _paths(
    models: Sequence[Checkpoint], request: AlignRequest
) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return where the folded reference and each model go, all beside or all in -o, and maps."""
    output, (reference, *others) = request.output, models
    outs = output_paths(others, output, word="aligned")
    first = output_paths([reference], output, word="folded")
    if outs == [output.path]:  # a file: the folded reference goes beside it
        (named,) = output_paths([reference], replace(output, out=None), word="folded")
        first = [outs[0].parent / named.name]
    check_distinct([*first, *outs])
    return [*first, *outs], permutation_paths(others, request.save)

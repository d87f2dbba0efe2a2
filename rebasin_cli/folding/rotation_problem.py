"""Models that are aligned by orthogonal maps, opened, and what has to hold of them before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.problem import MatchingProblem, ProblemRequest, check_models
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.files.inputs import open_models
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.matching.problem.settings import look_up
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.symmetry.norm_folding import FoldPlan

COPIES = 3  # of a model: the reference, the other, and what of it is being moved
ORTHOGONAL = "orthogonal"
METHODS = ("auto", "weights")


@dataclass(frozen=True)
class RotationProblem(MatchingProblem[Choice]):
    """Models of one architecture whose norms fold, so that their units may be rotated.

    check: a model to run them with, if one is at hand.
    """

    folding: FoldPlan
    check: FunctionCheck | None

    @property
    def maps(self) -> dict[str, str]:
        """The class of every group that allows more than permutations."""
        groups = self.choice.bound.groups.values()
        return {group.name: group.maps for group in groups if group.maps != PERMUTATION}

    @property
    def ties_a_head(self) -> bool:
        """Whether a head is the embedding, so that folding changes outputs a little."""
        return any(norm.tied for norm in self.folding.norms.values())

    def describe(self) -> dict[str, Any]:
        """Return what a plan says of rotating beside what it says of any matching."""
        return {"symmetry": ORTHOGONAL, "maps": self.maps}


def rotates(symmetry: str) -> bool:
    """Return whether models are to be rotated. Raises UsageError for an unknown symmetry."""
    look_up("symmetry", symmetry, dict.fromkeys((PERMUTATION, ORTHOGONAL)))
    return symmetry == ORTHOGONAL


def check_rotating(
    request: ProblemRequest, *, methods: Sequence[str] = METHODS, runs: bool = False
) -> None:
    """Raise UsageError for options that orthogonal maps know nothing of.

    methods: that the command has. runs: it runs the model, which may be done on any device.
    """
    other, search = Search(), request.search
    if search.method not in methods:
        data = ", or activations with --model and --data" if methods != METHODS else ""
        raise UsageError(
            f"--symmetry orthogonal has no method {search.method!r}",
            hint=f"--method weights{data}",
        )
    if (search.start, search.restarts, search.loss) != (other.start, other.restarts, other.loss):
        raise UsageError("--start, --restarts and --loss are of permutations")
    if request.computing.device not in ("auto", "cpu") and not runs:
        raise UsageError("--symmetry orthogonal runs on the CPU", hint="leave out --device")
    if request.selection.common:
        raise UsageError("--common is of permutations", hint="leave out --symmetry orthogonal")


def open_rotations(
    paths: Sequence[Path],
    request: ProblemRequest,
    *,
    methods: Sequence[str] = METHODS,
    runs: bool = False,
) -> RotationProblem:
    """Return the models of a command as a problem; see `plan_rotations`.

    methods, runs: as of `check_rotating`.
    """
    check_rotating(request, methods=methods, runs=runs)
    return plan_rotations(open_models(paths, request.selection), request)


def plan_rotations(models: Sequence[Checkpoint], request: ProblemRequest) -> RotationProblem:
    """Return models that are open as a problem; nothing is read but headers.

    Where --spec names one it says how to align, and --model what is run. Raises UsageError for a
    spec that allows permutations alone, MachineError where two models do not fit into memory, and
    what opening a `MatchingProblem` does.
    """
    check_models(models, request, done="rotated")
    selection, computing = request.selection, request.computing
    choice = choose_spec(models, selection, tracing=request.tracing.unless(selection.spec))
    problem = rotation_of(MatchingProblem(tuple(models), plan_machine(computing, Search()), choice))
    check = plan_function_check(
        models[0], selection, request.tracing, wanted=computing.check, choice=choice
    )
    return replace(problem, check=check)


def rotation_of(problem: MatchingProblem[Choice]) -> RotationProblem:
    """Return models whose spec is chosen as a problem; nothing of it is run to check functions.

    Raises UsageError and MachineError as `plan_rotations`.
    """
    choice, models = problem.choice, problem.models
    _check_choice(choice)
    folding = plan_folding(choice, models)
    _check_memory(choice, problem.machine)
    return RotationProblem(models, problem.machine, choice, folding, None)


def _check_choice(choice: Choice) -> None:
    """Raise UsageError where the spec allows permutations alone, or a unit has to stay."""
    if all(group.maps == PERMUTATION for group in choice.bound.groups.values()):
        traced = "--spec NAME of a bundled spec that does (`rebasin inspect` tells which fits), or "
        raise UsageError(
            f"spec {choice.name!r} allows nothing but permutations",
            hint=f"{traced if choice.traced else ''}leave out --symmetry orthogonal; "
            "`maps:` in a spec says where more is allowed",
        )
    if choice.held:
        raise UsageError(
            f"units of {', '.join(sorted(choice.held))} have to stay where they are, "
            "and orthogonal maps move all of them",
            hint="leave out --only and --skip, or --symmetry orthogonal",
        )


def _check_memory(choice: Choice, machine: Machine) -> None:
    """Raise MachineError where the two models and what moves of one do not fit in float64."""
    elements = sum(prod(tensor.shape) for tensor in choice.bound.tensors if tensor.votes)
    needed = COPIES * elements * torch.float64.itemsize
    if needed > machine.max_memory:
        raise MachineError(
            "not enough memory",
            detail=f"orthogonal maps take both models in float64, about {needed / 1e9:.1f} GB, and "
            f"{machine.max_memory / 1e9:.1f} GB may be used",
            hint="raise --max-memory; permutations, without --symmetry, are found in less",
        )

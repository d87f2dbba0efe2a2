"""Models that are aligned by orthogonal maps, opened, and what has to hold of them before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.problem import MatchingProblem, ProblemRequest, check_models, warn_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import MachineError, UsageError, look_up
from rebasin_cli.files.inputs import open_models
from rebasin_cli.files.provenance import folded_facts
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.folding.settled_heads import AUTO, check_tie, settle_heads, untied_before
from rebasin_cli.folding.tied_heads import Heads, untied_check
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.map_memory import (
    fits_whole,
    search_memory,
    streamed_memory,
    whole_memory,
)
from rebasin_cli.symmetry.map_search import MapSettings
from rebasin_cli.symmetry.voting_blocks import product_dtype

RUN_COPIES = 1.5  # of a model that is run: in float64, and in the dtype that it is built in
BUILT = torch.float32  # that classes are mostly built in
BLOCKS = "orthogonal maps take the blocks of one layer"
ORTHOGONAL = "orthogonal"
METHODS = ("auto", "weights")


@dataclass(frozen=True)
class HeldModels:
    """What keeps models in memory: an option, and how many it runs at once beside the search."""

    option: str
    run: int = 0


@dataclass(frozen=True)
class RotationProblem(MatchingProblem[Choice]):
    """Models of one architecture whose norms fold, so that their units may be rotated.

    check: a model to run them with, if one is at hand. heads: tensors of their own that were the
    embedding.
    """

    folding: FoldPlan
    check: FunctionCheck | None
    heads: Heads = field(default_factory=dict)

    @property
    def maps(self) -> dict[str, str]:
        """The class of every group that allows more than permutations."""
        groups, solved = self.choice.bound.groups.values(), self.folding.classes
        return {group.name: group.maps for group in groups if solved[group.name] != PERMUTATION}

    @property
    def settings(self) -> MapSettings:
        """How maps are searched for, with the means of the machine."""
        return MapSettings(max_memory=self.machine.max_memory, device=self.machine.device)

    @property
    def streamed(self) -> bool:
        """Whether models are read as they are needed, since two do not fit into memory."""
        return not fits_whole(self.folding.moving, self.machine.max_memory)

    @property
    def memory(self) -> int:
        """The estimated peak in bytes of the search for maps, the interpreter left out."""
        moving = self.folding.moving
        dtype = product_dtype((t for t in moving.tensors if t.votes and t.groups), self.models)
        return streamed_memory(moving, dtype) if self.streamed else search_memory(moving)

    @property
    def ties_a_head(self) -> bool:
        """Whether a head is the embedding, so that folding changes outputs a little."""
        return any(norm.tied for norm in self.folding.norms.values())

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance says of every result: that it is folded, by which maps, untied heads."""
        return {"symmetry": ORTHOGONAL, **folded_facts(self.heads)}

    def describe(self) -> dict[str, Any]:
        """Return what a plan says of rotating beside what it says of any matching."""
        told = {"symmetry": ORTHOGONAL, "maps": self.maps, "untied": sorted(self.heads)}
        return {**told, "memory": self.memory}


def rotates(symmetry: str, *, tie: str = AUTO) -> bool:
    """Return whether models are to be rotated.

    Raises UsageError for an unknown symmetry, or for a way with tied heads where none is folded.
    """
    look_up("symmetry", symmetry, dict.fromkeys((PERMUTATION, ORTHOGONAL)))
    check_tie(tie, folds=symmetry == ORTHOGONAL)
    return symmetry == ORTHOGONAL


def check_rotating(request: ProblemRequest, *, methods: Sequence[str] = METHODS) -> None:
    """Raise UsageError for options that orthogonal maps know nothing of.

    methods: that the command has.
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
    if request.selection.common:
        raise UsageError("--common is of permutations", hint="leave out --symmetry orthogonal")


def tell_unsearched(request: ProblemRequest) -> None:
    """Warn of options that say how long, and how, permutations are searched for."""
    search, usual = request.search, Search()
    given = {
        "--effort": search.effort != usual.effort,
        "--order": search.order != usual.order,
    }
    warn_idle(given, "orthogonal maps are all solved for in turn until they rest")


def open_rotations(
    paths: Sequence[Path],
    request: ProblemRequest,
    *,
    methods: Sequence[str] = METHODS,
    tie: str = AUTO,
    held: HeldModels | None = None,
) -> RotationProblem:
    """Return the models of a command as a problem; see `plan_rotations`.

    methods: as of `check_rotating`.
    """
    check_rotating(request, methods=methods)
    tell_unsearched(request)
    return plan_rotations(open_models(paths, request.selection), request, tie=tie, held=held)


def plan_rotations(
    models: Sequence[Checkpoint],
    request: ProblemRequest,
    *,
    held: HeldModels | None = None,
    tie: str = AUTO,
) -> RotationProblem:
    """Return models that are open as a problem; nothing is read but headers, and tied heads.

    Where --spec names one it says how to align, and --model what is run. held: what is asked for
    that takes models in memory, if anything does. tie: see `settle_heads`. Raises UsageError for a
    spec that allows permutations alone, MachineError where memory is too small, and what opening a
    `MatchingProblem` does.
    """
    check_tie(tie)
    models = untied_before(models, tie)
    check_models(models, request, done="rotated")
    tracing = request.tracing.unless(request.selection.spec)
    choice = choose_spec(models, request.selection, tracing=tracing, rotated=True)
    machine = plan_machine(request.computing, Search()).for_maps
    rotation_of(MatchingProblem(tuple(models), machine, choice), held=held)  # before any is read
    settled = settle_heads(choice, models, tie)
    problem = rotation_of(MatchingProblem(settled.models, machine, settled.choice), held=held)
    check = plan_function_check(models[0].undivided, request, choice=choice)
    if check and not check.required and _run_memory(models[0]) > problem.machine.max_memory:
        check = None
    return replace(problem, check=untied_check(check, settled.heads), heads=settled.heads)


def rotation_of(
    problem: MatchingProblem[Choice], *, held: HeldModels | None = None
) -> RotationProblem:
    """Return models whose spec is chosen as a problem; nothing of it is run to check functions.

    held: as of `plan_rotations`, which raises the same UsageError and MachineError.
    """
    choice, models = problem.choice, problem.models
    _check_choice(choice)
    folding = plan_folding(choice, models)
    _check_memory(folding.moving, models, problem.machine, held)
    if held and held.run:
        _check_run_memory(models, problem.machine, held)
    return RotationProblem(models, problem.machine, choice, folding, None)


def _check_choice(choice: Choice) -> None:
    """Raise UsageError where the spec allows permutations alone, or a unit has to stay."""
    if all(group.maps == PERMUTATION for group in choice.bound.groups.values()):
        traced = "`rebasin spec trace --explain` says why, "
        types = ", ".join(choice.bound.spec.model_types)
        raise UsageError(
            f"spec {choice.name!r} allows nothing but permutations",
            detail=f"more is known of models of type {types} alone" if types else "",
            hint=f"{traced if choice.traced else ''}`maps:` in a spec says where more is allowed",
        )
    if choice.held:
        raise UsageError(
            f"units of {', '.join(sorted(choice.held))} have to stay where they are, "
            "and orthogonal maps move all of them",
            hint="leave out --only and --skip",
        )


def _check_memory(
    bound: BoundSpec, models: Sequence[Checkpoint], machine: Machine, held: HeldModels | None
) -> None:
    """Raise MachineError where searching for maps takes more than may be used."""
    what = f"{held.option} takes both models in float64" if held else BLOCKS
    whole = whole_memory(bound)
    dtype = product_dtype((t for t in bound.tensors if t.votes and t.groups), models)
    _require(whole if held else min(whole, streamed_memory(bound, dtype)), machine, what)


def _check_run_memory(models: Sequence[Checkpoint], machine: Machine, held: HeldModels) -> None:
    """Raise MachineError where the models that are run at once take more than may be used."""
    infos = [models[0].info(name) for name in models[0].names()]
    each = sum(max(info.nbytes, BUILT.itemsize * info.numel) for info in infos)
    _require(held.run * each, machine, f"{held.option} runs {held.run} models at once")


def _require(needed: int, machine: Machine, what: str) -> None:
    if needed > machine.max_memory:
        raise MachineError(
            "not enough memory",
            detail=f"{what}, about {needed / 1e9:.1f} GB, and "
            f"{machine.max_memory / 1e9:.1f} GB may be used",
            hint="raise --max-memory; permutations are found in less",
        )


def _run_memory(model: Checkpoint) -> float:
    """Return the bytes that running a model takes: as it is built, and widened to float64."""
    elements = sum(model.info(name).numel for name in model.names())
    return RUN_COPIES * elements * torch.float64.itemsize

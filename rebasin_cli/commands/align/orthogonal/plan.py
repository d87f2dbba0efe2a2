"""The plan of aligning by orthogonal maps: both sides are folded, and both are written."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.problem import check_models
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.request import AlignRequest
from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths, permutation_paths
from rebasin_cli.files.places import OutputPlace, check_distinct, files_of, plan_place
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.spec_choice.traced import class_in_config, of_library
from rebasin_cli.symmetry.norm_folding import FoldPlan

ACTIVATIONS = "activations"
COPIES = 3  # of a model: the reference, the other, and what of it is being moved
METHODS = ("auto", "weights", ACTIVATIONS)


@dataclass(frozen=True)
class OrthogonalPlan:
    """All that `run_orthogonal` needs.

    models: the reference first. targets: of the folded reference, then of each moved model.
    places: where the maps of each model are saved.
    check: a model to run them with, if one is at hand. code: the model and the data that maps are
    found or learned from, if they are.
    """

    models: tuple[Checkpoint, ...]
    targets: tuple[Target, ...]
    places: tuple[OutputPlace | None, ...]
    choice: Choice
    folding: FoldPlan
    check: FunctionCheck | None
    code: UserCode | None
    machine: Machine
    request: AlignRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        groups = self.choice.bound.groups.values()
        return {
            "command": "align",
            "inputs": describe_inputs(self.models),
            "outputs": [describe_target(target) for target in self.targets],
            "symmetry": "orthogonal",
            "learn": self.request.learn,
            "data": self.request.data.data,
            **self._drawn(),
            "spec": self.choice.name,
            "maps": {g.name: g.maps for g in groups if g.maps != PERMUTATION},
        }

    def _drawn(self) -> dict[str, Any]:
        """Return how much is drawn from the models, if anything is."""
        drawn = self.code.sequences if self.code else None
        return {"sampled": {"sequences": drawn.count, "tokens": drawn.length}} if drawn else {}


def plan_orthogonal(request: AlignRequest) -> OrthogonalPlan:
    """Return what aligning by orthogonal maps will do; nothing is read but headers."""
    _check_options(request)
    if len(request.models) < 2:
        raise UsageError(
            "align needs a reference and at least one model",
            hint="rebasin align REFERENCE MODEL...",
        )
    models = open_models(request.models, request.selection)
    check_models(models, request, done="rotated")
    tracing = request.tracing.unless(request.selection.spec)
    choice = choose_spec(models, request.selection, tracing=tracing)
    _check_choice(choice)
    folding = plan_folding(choice, models)
    check = plan_function_check(
        models[0],
        request.selection,
        request.tracing,
        wanted=request.computing.check,
        choice=choice,
    )
    targets = _targets(models, request)
    machine = plan_machine(request.computing, Search())
    _check_memory(choice, machine)
    code = _code(models[0], request)
    return OrthogonalPlan(
        models=tuple(models),
        targets=tuple(targets),
        places=_places(models, request),
        choice=choice,
        folding=folding,
        check=check,
        code=code,
        machine=machine,
        request=request,
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


def _code(reference: Checkpoint, request: AlignRequest) -> UserCode | None:
    """Return the model and the data, if they are run."""
    if not request.learn and request.search.method != ACTIVATIONS:
        if request.data.data is not None:
            raise UsageError(
                "matching by weights uses no data", hint="--method activations, or --learn 150"
            )
        return None
    tracing = _run_as(reference, request.tracing)
    return plan_user_code(reference, request.selection, tracing, request.data, fed=True)


def _run_as(reference: Checkpoint, tracing: Tracing) -> Tracing:
    """Return which model is run: that of --model, else the one that a config.json names."""
    headers = headers_of([reference])
    found = class_in_config(headers)
    if tracing.target is not None or found is None or importlib.util.find_spec(found[0]) is None:
        return tracing
    return of_library(found[0], headers, tracing)


def _check_choice(choice: Choice) -> None:
    """Raise UsageError where the spec allows permutations alone, or a unit has to stay."""
    if all(group.maps == PERMUTATION for group in choice.bound.groups.values()):
        raise UsageError(
            f"spec {choice.name!r} allows nothing but permutations",
            hint="leave out --symmetry orthogonal; `maps:` in a spec says where more is allowed",
        )
    if choice.held:
        raise UsageError(
            f"units of {', '.join(sorted(choice.held))} have to stay where they are, "
            "and orthogonal maps move all of them",
            hint="leave out --only and --skip, or --symmetry orthogonal",
        )


def _check_options(request: AlignRequest) -> None:
    """Raise UsageError for options that orthogonal maps know nothing of."""
    other, search = Search(), request.search
    if search.method not in METHODS:
        raise UsageError(
            f"--symmetry orthogonal has no method {search.method!r}",
            hint="--method weights, or activations with --model and --data",
        )
    if request.activations != Activations():
        raise UsageError(
            "--statistics, --similarity, --mix, --point and --stream are of permutations"
        )
    if (search.start, search.restarts, search.loss) != (other.start, other.restarts, other.loss):
        raise UsageError("--start, --restarts and --loss are of permutations")
    if request.computing.device not in ("auto", "cpu"):
        raise UsageError("--symmetry orthogonal runs on the CPU", hint="leave out --device")
    if request.selection.common:
        raise UsageError("--common is of permutations", hint="leave out --symmetry orthogonal")


def _places(models: Sequence[Checkpoint], request: AlignRequest) -> tuple[OutputPlace | None, ...]:
    """Return where the maps of each model but the reference are saved, if they are."""
    others = models[1:]
    saves = permutation_paths(others, request.save)
    inputs = [file for model in models for file in files_of(model)]
    several = len(others) > 1 or request.output.names_folder
    found = [plan_place(path, request.output, others=inputs, create=several) for path in saves]
    return tuple(found) if found else (None,) * len(others)


def _targets(models: Sequence[Checkpoint], request: AlignRequest) -> list[Target]:
    """Return where the folded reference goes, and each model: all beside, or all in -o."""
    output, (reference, *others) = request.output, models
    outs = output_paths(others, output, word="aligned")
    first = output_paths([reference], output, word="folded")
    if outs == [output.path]:  # a file: the folded reference goes beside it
        (named,) = output_paths([reference], replace(output, out=None), word="folded")
        first = [outs[0].parent / named.name]
    check_distinct([*first, *outs])
    inputs = [file for model in models for file in files_of(model)]
    several = len(others) > 1 or output.names_folder
    return [
        plan_target(
            out,
            model,
            request.selection,
            output,
            own=[model],
            others=[file for file in inputs if file not in files_of(model)],
            create=several,
        )
        for out, model in zip([*first, *outs], models, strict=True)
    ]

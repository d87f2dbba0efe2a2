"""The plan of `rebasin align`: which model goes where, under which spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import check_search, describe_matching, in_any_order
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.overlaps import plan_overlaps
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.method_inputs import (
    DATA_METHODS,
    MethodInputs,
    check_chosen,
    check_learning,
)
from rebasin_cli.commands.align.outputs import check_models_given, plan_saves, plan_targets
from rebasin_cli.commands.align.widened_models import widen_models
from rebasin_cli.errors import UsageError
from rebasin_cli.execution.workers import Workers, plan_workers
from rebasin_cli.files.coded import moves_together, refuse_torn_codes, told_of_codes
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths, permutation_paths
from rebasin_cli.files.places import OutputPlace, check_distinct, files_of
from rebasin_cli.files.result_memory import reordered_bytes, written_bytes
from rebasin_cli.files.saved.permutation_file import read_permutations
from rebasin_cli.files.targets import Target, describe_target, output_infos
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.options.machine import Machine
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permutation import Permutation
from rebasin_cli.resuming.finished import plan_finished
from rebasin_cli.spec_choice.choice import Choice, GivenSpec, choose_spec, tensors_cut_for
from rebasin_cli.spec_choice.heads import heads_apart
from rebasin_cli.tensors.blocks import BoundTensor


@dataclass(frozen=True)
class AlignItem:
    """One model to align, where the result goes, and where its permutation is saved.

    tensors: as they are cut in this model. overlap: where its shapes are not the reference's.
    check: the model to see with that its function stays.
    """

    model: Checkpoint
    target: Target
    permutation: OutputPlace | None
    tensors: tuple[BoundTensor, ...]
    overlap: Overlap
    check: FunctionCheck | None

    def describe(self) -> dict[str, Any]:
        """Return what a plan says of the files that it becomes."""
        saved = {"permutation": str(self.permutation.path)} if self.permutation else {}
        return {**describe_target(self.target), **saved}


@dataclass(frozen=True)
class AlignPlan:
    """All that `run_align` needs.

    initial: where every search starts; None: by the options. inputs: of a method that runs models.
    machine: of each of the workers.
    """

    reference: Checkpoint
    items: tuple[AlignItem, ...]
    choice: Choice
    machine: Machine
    initial: Mapping[str, Permutation] | None
    request: AlignRequest
    workers: Workers
    inputs: MethodInputs = field(default_factory=MethodInputs)

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        models = [item.model for item in self.items]
        matching = describe_matching(
            self.choice, self.machine, self.request.search, [self.reference, *models]
        )
        return {
            "command": "align",
            "inputs": describe_inputs([self.reference, *models]),
            "outputs": [item.describe() for item in self.items],
            **matching,
            "memory": max(matching["memory"], *map(self._written, self.items)),
        }

    def _written(self, item: AlignItem) -> int:
        """Return the bytes of writing a model with its units in another order."""
        layout, asked = item.target.layout, self.request
        tensors = output_infos(item.model, layout, asked.selection, asked.output)
        moved = in_any_order(item.model, self.choice)
        return written_bytes(layout, tensors) + reordered_bytes(moved, layout)


def plan_align(request: AlignRequest, *, rotated: bool = False) -> AlignPlan:
    """Return what aligning will do; nothing is read but headers. rotated: see `choose_spec`."""
    start = request.search.start_file
    search = replace(request.search, start=None) if start else request.search
    request = replace(request, search=search)
    check_models_given(request)
    check_chosen(request, start)
    if request.learn:
        raise UsageError("--learn learns rotations", hint="--symmetry orthogonal")
    workers = plan_workers(request, tasks=len(request.models) - 1, more=DATA_METHODS)
    machine = workers.machines[0]
    reference, *models = open_models(request.models, request.selection)
    inputs = _inputs(reference, request)
    models = widen_models(reference, models, request, _given(inputs))
    runs = request.search.method in DATA_METHODS
    heads = () if runs else heads_apart(reference, models, request.selection)
    check_fit(reference, models, request.selection, request.tracing, apart=heads)
    check_learning([reference, *models], request)
    choice = _choice(request, [reference, *models], heads, _given(inputs), rotated=rotated)
    refuse_torn_codes(models, moves_together(choice.bound, choice.movable))
    check_search(choice, machine, request.search)
    initial = read_permutations(start, reference).permutations if start else None
    targets = _targets(reference, models, start, request)
    if workers.repeat:
        targets = [(target.again, place and place.again) for target, place in targets]
    items = _items(reference, models, targets, choice, request)
    return AlignPlan(reference, items, choice, machine, initial, request, workers, inputs)


def _choice(
    request: AlignRequest,
    models: Sequence[Checkpoint],
    heads: Sequence[str],
    given: GivenSpec | None,
    *,
    rotated: bool,
) -> Choice:
    """Return the spec that all models are aligned under; heads need not be named by it."""
    selection, tracing = request.selection, request.tracing
    if request.search.method in DATA_METHODS:  # the model is run: it need not say how to align
        tracing = tracing.unless(selection.spec)
    if selection.spec is None:  # a spec that is named names heads too
        selection = selection.passing(heads)
    with told_of_codes(models[1:]):
        return choose_spec(models, selection, tracing=tracing, given=given, rotated=rotated)


def _given(inputs: MethodInputs) -> GivenSpec | None:
    """Return the spec in a file of statistics, if there is one."""
    found = inputs.statistics
    return GivenSpec(f"of {found.path}", found.spec) if found else None


def _inputs(reference: Checkpoint, request: AlignRequest) -> MethodInputs:
    """Return what the method works with; --data says nothing to one that runs no model."""
    method = request.search.method
    if method in DATA_METHODS:
        return DATA_METHODS[method](reference, request)
    if request.data.data is not None:
        raise UsageError(
            f"method {method!r} uses no data",
            hint=f"--method {' or '.join(DATA_METHODS)}, or --select 6",
        )
    return MethodInputs()


def _items(
    reference: Checkpoint,
    models: Sequence[Checkpoint],
    targets: Sequence[tuple[Target, OutputPlace | None]],
    choice: Choice,
    request: AlignRequest,
) -> tuple[AlignItem, ...]:
    """Return what becomes of each model, in its own shapes."""
    _, *overlaps = plan_overlaps([reference, *models], choice, wanted=request.selection.common)
    check = plan_function_check(reference, request, choice=choice)
    own = replace(request, tracing=Tracing())
    return tuple(
        AlignItem(
            model,
            target,
            place,
            tensors=tensors_cut_for(choice, model, reference, request.selection)
            if overlap
            else choice.bound.tensors,
            overlap=overlap,
            check=plan_function_check(model, own) if overlap else check,
        )
        for model, (target, place), overlap in zip(models, targets, overlaps, strict=True)
    )


def _targets(
    reference: Checkpoint,
    models: Sequence[Checkpoint],
    start: Path | None,
    request: AlignRequest,
) -> list[tuple[Target, OutputPlace | None]]:
    """Return where results and permutations go."""
    outs = output_paths(models, request.output, word="aligned")
    saves = permutation_paths(models, request.save)
    every, output = [reference, *models], request.output
    finished = plan_finished(request.finished, "align", every, [*outs, *saves], output)
    inputs = [file for model in every for file in files_of(model)]
    inputs += [path for path in (start, request.activations.statistics) if path]
    targets = plan_targets(models, outs, inputs, finished, request)
    places = plan_saves(saves, inputs, finished, request)
    check_distinct([target.card.path for target in targets if target.card])
    return list(zip(targets, places, strict=True))

"""The plan of `rebasin align`: which model goes where, under which spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import check_search, describe_matching
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.overlaps import plan_overlaps
from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.commands.align.methods import DATA_METHODS, Means, check_chosen
from rebasin_cli.commands.align.straight_through.plan import check_learning
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes, told_of_codes
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.output_paths import output_paths, permutation_paths
from rebasin_cli.files.permutation_file import read_permutations
from rebasin_cli.files.targets import (
    Place,
    Target,
    check_distinct,
    describe_target,
    files_of,
    plan_place,
    plan_target,
)
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.options.groups import Options, Tracing
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec_choice.choice import Choice, choose_spec, tensors_of
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
    permutation: Place | None
    tensors: tuple[BoundTensor, ...]
    overlap: Overlap
    check: FunctionCheck | None


@dataclass(frozen=True)
class AlignPlan:
    """All that `run_align` needs.

    initial: where every search starts; None: by the options. means: of a method that runs models.
    """

    reference: Checkpoint
    items: tuple[AlignItem, ...]
    choice: Choice
    machine: Machine
    initial: Mapping[str, Permutation] | None
    options: Options
    means: Means = field(default_factory=Means)

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        models = [item.model for item in self.items]
        return {
            "command": "align",
            "inputs": describe_inputs([self.reference, *models]),
            "outputs": [describe_target(item.target) for item in self.items],
            **describe_matching(self.choice, self.machine),
        }


def plan_align(
    paths: Sequence[Path], options: Options, *, save: Path | None = None, start: Path | None = None
) -> AlignPlan:
    """Return what aligning paths[1:] to paths[0] will do; nothing is read but headers.

    save: a file for the permutation, or a folder for several. start: a permutation file.
    """
    if len(paths) < 2:
        raise UsageError(
            "align needs a reference and at least one model",
            hint="rebasin align REFERENCE MODEL...",
        )
    check_chosen(options, start)
    machine = plan_machine(options, more=DATA_METHODS)
    reference, *models = open_models(paths, options)
    runs = options.search.method in DATA_METHODS
    heads = () if runs else heads_apart(reference, models, options)
    check_fit(reference, models, options, apart=heads)
    check_learning([reference, *models], options)
    means = _means(reference, options)
    aligning = options.spec_first() if runs else options
    if aligning.spec is None:  # a spec that is named names heads too
        aligning = aligning.passing(heads)
    with told_of_codes(models):
        choice = choose_spec([reference, *models], aligning, given=means.statistics)
    refuse_torn_codes(models, moves_together(choice.bound, choice.movable))
    check_search(choice, machine, options)
    initial = read_permutations(start, reference).permutations if start else None
    targets = _targets(reference, models, save, start, options)
    items = _items(reference, models, targets, choice, options)
    return AlignPlan(reference, items, choice, machine, initial, options, means)


def _means(reference: Checkpoint, options: Options) -> Means:
    """Return what the method works with; --data says nothing to one that runs no model."""
    method = options.search.method
    if method in DATA_METHODS:
        return DATA_METHODS[method](reference, options)
    if options.running.data is not None:
        raise UsageError(
            f"method {method!r} uses no data", hint=f"--method {' or '.join(DATA_METHODS)}"
        )
    return Means()


def _items(
    reference: Checkpoint,
    models: Sequence[Checkpoint],
    targets: Sequence[tuple[Target, Place | None]],
    choice: Choice,
    options: Options,
) -> tuple[AlignItem, ...]:
    """Return what becomes of each model, in its own shapes."""
    _, *overlaps = plan_overlaps([reference, *models], choice, wanted=options.common)
    check = plan_function_check(reference, options, choice)
    own = replace(options, tracing=Tracing())
    return tuple(
        AlignItem(
            model,
            target,
            place,
            tensors=tensors_of(choice, model, reference, options)
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
    save: Path | None,
    start: Path | None,
    options: Options,
) -> list[tuple[Target, Place | None]]:
    """Return where results and permutations go; no output may be an input but the model's own."""
    outs = output_paths(models, options, word="aligned")
    saves = permutation_paths(models, save)
    check_distinct([*outs, *saves])
    several = len(models) > 1 or options.out_folder
    inputs = [file for model in (reference, *models) for file in files_of(model)]
    inputs += [path for path in (start, options.activations.statistics) if path]
    targets = []
    for out, place, model in zip_longest(outs, saves, models):
        others = [file for file in inputs if file not in files_of(model)]
        target = plan_target(out, model, options, own=[model], others=others, create=several)
        saved = plan_place(place, options, others=inputs, create=several) if place else None
        targets.append((target, saved))
    check_distinct([target.card.path for target, _ in targets if target.card])
    return targets

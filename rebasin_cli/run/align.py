"""Carrying out `rebasin align`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter

from rebasin_cli.checkpoint import Checkpoint, Written
from rebasin_cli.errors import RebasinError
from rebasin_cli.matching import Matching, match_weights
from rebasin_cli.merging.overlap import EQUAL, CommonPart, Overlap
from rebasin_cli.permutation import Permutation, Permuted
from rebasin_cli.plan.align import AlignItem, AlignPlan
from rebasin_cli.plan.choice import Choice
from rebasin_cli.plan.machine import Machine
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.outcome import Aligned, Failed, Kept
from rebasin_cli.plan.saved import CONFIG, PASSED, SIZES, SPEC
from rebasin_cli.plan.targets import Place
from rebasin_cli.progress import Progress
from rebasin_cli.run.activations import by_activations
from rebasin_cli.run.card import Found, carded
from rebasin_cli.run.diagnose import diagnosed
from rebasin_cli.run.function import check_function
from rebasin_cli.run.output import moved_parts, write_model, write_permutations
from rebasin_cli.run.provenance import basin_of, provenance
from rebasin_cli.run.straight_through import by_straight_through
from rebasin_cli.spec import dump


def run_align(plan: AlignPlan, progress: Progress) -> Iterator[Kept | Failed | Aligned]:
    """Yield the reference, then each model as soon as it is written.

    A model that fails is reported and the others go on; a single one raises instead.
    """
    yield Kept("align", plan.reference.path, "reference")
    for item in plan.items:
        if item.target.place.skip:
            yield Kept("align", item.target.path, "exists")
            continue
        try:
            yield _align(plan, item, progress)
        except RebasinError as error:
            if len(plan.items) == 1:
                raise
            yield Failed("align", item.model.path, error)


def _align(plan: AlignPlan, item: AlignItem, progress: Progress) -> Aligned:
    began = perf_counter()
    method = DATA_METHODS.get(plan.options.search.method, by_weights)
    matching = method(plan, item, progress)
    models = plan.reference, item.model
    progress("comparing units", 0, 0)
    diagnosis = diagnosed(
        models,
        plan.choice,
        plan.machine,
        plan.options,
        matching.permutations,
        overlap=item.overlap,
    )
    facts = provenance(
        "align",
        models,
        basin=basin_of(plan.reference) if plan.choice.whole else None,
        spec=plan.choice.name,
        seed=plan.options.seed,
    )
    moved = Permuted(item.model, item.tensors, matching.permutations)
    progress("checking the function", 0, 0)
    function = check_function(item.check, item.model, moved, where=str(item.model.path))
    progress(f"writing {item.target.path.name}", 0, 0)
    found = Found(matching.objective, function)
    target = carded(item.target, models, options=plan.options, facts=facts, found=found)
    parts = moved_parts(item.model, item.tensors, matching.permutations)
    written = write_model(moved, item.model, target, plan.options, facts, parts)
    saved = save_permutations(item.permutation, matching, plan.choice, models, plan.options)
    return Aligned(
        model=item.model.path,
        reference=plan.reference.path,
        spec=plan.choice.name,
        matching=matching,
        untouched=len(plan.choice.bound.untouched),
        written=written,
        permutation=saved,
        seconds=perf_counter() - began,
        alike=plan.choice.alike,
        diagnosis=diagnosis,
        function=function,
    )


def by_weights(plan: AlignPlan, item: AlignItem, progress: Progress) -> Matching:
    """Return the matching of an item's model to the reference, from the weights alone."""
    return match_models(
        plan.reference,
        item.model,
        plan.choice,
        plan.machine,
        plan.options,
        overlap=item.overlap,
        initial=plan.initial,
        progress=progress,
    )


# Methods that run the models, by name; `plan.methods.DATA_METHODS` says what each of them needs.
DATA_METHODS: Mapping[str, Callable[[AlignPlan, AlignItem, Progress], Matching]] = {
    "activations": by_activations,
    "straight-through": by_straight_through,
}


def match_models(
    reference: Checkpoint,
    model: Checkpoint,
    choice: Choice,
    machine: Machine,
    options: Options,
    *,
    overlap: Overlap = EQUAL,
    initial: Mapping[str, Permutation] | None = None,
    progress: Progress,
) -> Matching:
    """Return the matching of one model to a reference, under the plan's spec and means.

    overlap: where the model's shapes are not the reference's.
    """
    return match_weights(
        reference,
        CommonPart(model, overlap),
        choice.bound,
        machine.settings(options),
        movable=choice.movable,
        initial=initial,
        labels=(str(reference.path), str(model.path)),
        progress=progress,
    )


def save_permutations(
    place: Place | None,
    matching: Matching,
    choice: Choice,
    models: tuple[Checkpoint, Checkpoint],
    options: Options,
) -> Written | None:
    """Write the permutation file of a reference and a model, if a place is planned for one.

    The sizes that are not in the headers (config.json, --set) come along: a later `apply`
    may meet the bare weights alone.
    """
    if place is None:
        return None
    reference, model = models
    untouched = choice.bound.untouched
    passed = {n: model.info(n).shape for n in untouched if n in model.names()}
    groups = {
        g.name: {"size": g.size, "per": g.parents, "fixed": g.fixed}
        for g in choice.bound.groups.values()
    }
    metadata = {
        SPEC: dump(choice.bound.spec),
        SIZES: json.dumps(dict(options.sizes), sort_keys=True),
        PASSED: json.dumps(passed, sort_keys=True),
        CONFIG: json.dumps(dict(model.config), sort_keys=True),
        "rebasin.groups": json.dumps(groups, sort_keys=True),
        "rebasin.reference": reference.sha256(),
        "rebasin.model": model.sha256(),
    }
    return write_permutations(place, matching.permutations, metadata)

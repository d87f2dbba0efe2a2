"""Carrying out `rebasin align`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from rebasin_cli.alignment.aligned import Aligned, aligned_outcome
from rebasin_cli.alignment.functions import check_function
from rebasin_cli.alignment.match import match_models
from rebasin_cli.alignment.model_card import CardFacts
from rebasin_cli.alignment.results import write_result
from rebasin_cli.alignment.unit_comparison import compare_units_of, detail_for
from rebasin_cli.commands.align.by_activations import by_activations
from rebasin_cli.commands.align.command import STRAIGHT_THROUGH
from rebasin_cli.commands.align.plan import AlignItem, AlignPlan
from rebasin_cli.commands.align.straight_through.run import by_straight_through
from rebasin_cli.commands.align.widened_models import growth_of, prove_models, settings_of
from rebasin_cli.errors import RebasinError
from rebasin_cli.files.part_sources import moved_parts
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.provenance import basin_of, provenance
from rebasin_cli.files.saved.permutation_file import save_permutations
from rebasin_cli.files.write import Result, folders_for
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.options.machine import Machine
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import Failed, LeftAsIs
from rebasin_cli.progress import Progress, with_name
from rebasin_cli.symmetry.fold_plan import can_rotate

Method = Callable[[AlignPlan, AlignItem, Progress], Matching]


def run_align(
    plan: AlignPlan, progress: Progress, *, method: Method | None = None
) -> Iterator[LeftAsIs | Failed | Aligned]:
    """Yield the reference, then each model as soon as it is written.

    A model that fails is reported and the others go on; a single one raises instead. method: what
    finds the permutations; None: the one that is asked for.
    """
    find = method or DATA_METHODS.get(plan.request.search.method, by_weights)
    prove_models(plan.reference, [item.model for item in plan.items], plan.choice, plan.request)
    yield LeftAsIs(plan.reference.path, "reference")
    alone, one = len(plan.items) == 1, replace(plan, items=())
    tasks = [AlignTask(one, item, find, alone=alone) for item in plan.items]
    with plan.workers.executor() as executor, folders_for(_places(plan)):
        yield from executor.run(tasks, progress)


@dataclass(frozen=True)
class AlignTask:
    """One model to align. alone: it is the only one, and its failure that of the command."""

    plan: AlignPlan
    item: AlignItem
    find: Method
    alone: bool

    def __call__(self, machine: Machine, progress: Progress) -> LeftAsIs | Failed | Aligned:
        """Align the model with the means of a machine."""
        if self.item.target.place.skip:
            return LeftAsIs(self.item.target.path, "exists")
        try:
            path = str(self.item.model.path)
            told = progress if self.alone else with_name(progress, path)
            return _align(replace(self.plan, machine=machine), self.item, self.find, told)
        except RebasinError as error:
            if self.alone:
                raise
            return Failed(self.item.model.path, error)


def _places(plan: AlignPlan) -> Iterator[OutputPlace]:
    """Yield where files are written."""
    for item in plan.items:
        yield item.target.place
        if item.permutation:
            yield item.permutation


def _align(plan: AlignPlan, item: AlignItem, find: Method, progress: Progress) -> Aligned:
    began, models = perf_counter(), (plan.reference, item.model)
    matching = find(plan, item, progress)
    comparison = compare_units_of(
        models,
        plan.choice,
        plan.machine,
        plan.request.display,
        matching,
        overlap=item.overlap,
        progress=progress,
    )
    moved = Permuted(item.model, item.tensors, matching.permutations)
    progress("checking the function", 0, 0)
    function = check_function(item.check, item.model, moved, where=str(item.model.path))
    progress(f"writing {item.target.path.name}", 0, 0)
    found = CardFacts(matching.objective, function)
    result = _result(plan, item, moved, matching)
    written = write_result(result, item.target, plan.request, inputs=models, found=found)
    saved = save_permutations(
        item.permutation,
        matching.permutations,
        plan.choice.bound,
        models,
        plan.request.selection.sizes,
    )
    outcome = aligned_outcome(models, plan.choice, matching, seconds=perf_counter() - began)
    return replace(
        outcome,
        written=written,
        permutation=saved,
        comparison=comparison,
        function=function,
        rotatable=can_rotate(plan.choice.bound),
        widened=growth_of(item.model),
    )


def _result(plan: AlignPlan, item: AlignItem, moved: Permuted, matching: Matching) -> Result:
    """Return what is written: the moved model, its provenance, and its other sets of weights."""
    facts = provenance(
        "align",
        [plan.reference, item.model],
        basin=basin_of(plan.reference) if plan.choice.whole else None,
        spec=plan.choice.name,
        seed=plan.request.computing.seed,
        jobs=plan.machine.jobs,
    )
    grown = growth_of(item.model)
    parts = None if grown else moved_parts(item.model, item.tensors, matching.permutations)
    return Result(moved, item.model, facts, parts, settings=settings_of(item.model))


def by_weights(plan: AlignPlan, item: AlignItem, progress: Progress) -> Matching:
    """Return the matching of an item's model to the reference, from the weights alone."""
    return match_models(
        plan.reference,
        item.model,
        plan.choice,
        plan.machine,
        plan.request.search,
        overlap=item.overlap,
        initial=plan.initial,
        progress=progress,
        detail=detail_for(plan.request.display),
    )


# Methods that run the models, by name; `method_inputs.DATA_METHODS` says what each of them needs.
DATA_METHODS: Mapping[str, Method] = {
    "activations": by_activations,
    STRAIGHT_THROUGH: by_straight_through,
}

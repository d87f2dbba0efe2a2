"""Carrying out `rebasin apply`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.apply.plan import Applied, ApplyPlan
from rebasin_cli.commands.apply.statistics.plan import MovedStatisticsPlan
from rebasin_cli.commands.apply.statistics.run import run_moved_statistics
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress


def run_apply(
    plan: ApplyPlan | MovedStatisticsPlan, progress: Progress
) -> Iterator[LeftAsIs | Applied]:
    """Yield the permuted model. Tensors the spec does not mention pass through."""
    if isinstance(plan, MovedStatisticsPlan):
        yield from run_moved_statistics(plan, progress)
        return
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    model, movement = plan.model, plan.movement
    inverted, training = plan.request.inverse, plan.training
    function = None if plan.belonging else movement.check(plan.check, model, model.path)
    facts = provenance("apply", [model], basin=None, inverse=inverted, **movement.facts)
    result = Result(
        movement.apply(model),
        model,
        facts,
        lambda key: movement.apply(part_of(model, key, movement.tensors)),
        jobs=training.jobs(),
    )
    progress(f"writing {plan.target.path.name}", 0, 0)
    written = write_result(result, plan.target, plan.request)
    yield Applied(
        model=model.path,
        permutation=plan.source,
        inverted=inverted,
        word=movement.word,
        groups=len(movement.groups),
        moved=movement.moved,
        written=replace(written, fate=training.fate(written.fate)),
        function=function,
        belonging=plan.belonging,
    )

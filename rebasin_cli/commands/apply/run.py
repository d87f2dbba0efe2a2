"""Carrying out `rebasin apply`."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.apply.plan import Applied, ApplyPlan
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress


def run_apply(plan: ApplyPlan, progress: Progress) -> Iterator[LeftAsIs | Applied]:
    """Yield the permuted model. Tensors the spec does not mention pass through."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    model, movement = plan.model, plan.movement
    function = movement.check(plan.check, model, model.path)
    facts = provenance("apply", [model], basin=None, inverse=plan.inverted, **plan.movement.facts)
    result = Result(
        movement.apply(model),
        model,
        facts,
        lambda key: movement.apply(part_of(model, key, movement.tensors)),
    )
    progress(f"writing {plan.target.path.name}", 0, 0)
    yield Applied(
        model=model.path,
        permutation=plan.source,
        inverted=plan.inverted,
        word=movement.word,
        groups=len(movement.groups),
        moved=movement.moved,
        written=write_result(result, plan.target, plan.request),
        function=function,
    )

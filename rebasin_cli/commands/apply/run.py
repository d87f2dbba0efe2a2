"""Carrying out `rebasin apply`."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.alignment.functions import check_function
from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.apply.plan import Applied, ApplyPlan
from rebasin_cli.files.part_sources import moved_parts
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.permutation import inverse
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress


def run_apply(plan: ApplyPlan, progress: Progress) -> Iterator[LeftAsIs | Applied]:
    """Yield the permuted model. Tensors the spec does not mention pass through."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    permutations = inverse(plan.permutations) if plan.inverted else plan.permutations
    moved = Permuted(plan.model, plan.bound.tensors, permutations)
    function = check_function(plan.check, plan.model, moved, where=str(plan.model.path))
    facts = provenance("apply", [plan.model], basin=None, inverse=plan.inverted)
    parts = moved_parts(plan.model, plan.bound.tensors, permutations)
    result = Result(moved, plan.model, facts, parts)
    progress(f"writing {plan.target.path.name}", 0, 0)
    yield Applied(
        model=plan.model.path,
        permutation=plan.source,
        inverted=plan.inverted,
        groups=sum(not group.fixed for group in plan.bound.groups.values()),
        moved=sum(p.moved > 0 for p in permutations.values()),
        written=write_result(result, plan.target, plan.request),
        function=function,
    )

"""Carrying out `rebasin fold`."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.fold.plan import FoldingPlan
from rebasin_cli.files.provenance import folded_basin, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import Folded, check_tied, folded_parts, measure_function
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.norm_folding import FoldedNorms


def run_fold(plan: FoldingPlan, progress: Progress) -> Iterator[LeftAsIs | Folded]:
    """Yield the folded model."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    model, folded = plan.model, FoldedNorms(plan.model, plan.folding)
    tied = check_tied(folded, model)
    function = measure_function(plan.check, model, folded, tied, model.path)
    facts = provenance("fold", [model], basin=folded_basin(model), spec=plan.spec, folded=True)
    progress(f"writing {plan.target.path.name}", 0, 0)
    result = Result(folded, model, facts, folded_parts(model, plan.folding))
    written = write_result(result, plan.target, plan.request)
    norms = len(plan.folding.bound.norms)
    yield Folded(model.path, plan.spec, norms, written, tied, function)

"""Carrying out `rebasin fold`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.fold.plan import FoldingPlan
from rebasin_cli.files.provenance import folded_basin, folded_facts, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import Folded, fold_model, folded_parts
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.norm_folding import FoldedNorms


def run_fold(plan: FoldingPlan, progress: Progress) -> Iterator[LeftAsIs | Folded]:
    """Yield the folded model."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    model, folding = plan.model, plan.folding
    folded = fold_model(model, folding, plan.check, plan.spec)
    told = folded_facts(plan.heads)
    facts = provenance("fold", [model], basin=folded_basin(model), spec=plan.spec, **told)
    progress(f"writing {plan.target.path.name}", 0, 0)
    result = Result(FoldedNorms(model, folding), model, facts, folded_parts(model, folding))
    yield replace(folded, written=write_result(result, plan.target, plan.request))

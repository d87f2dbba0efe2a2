"""Carrying out `rebasin merge --method least-squares`: align, average, solve layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch import nn

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.merge.least_squares.plan import LeastSquaresPlan
from rebasin_cli.commands.merge.least_squares.solution import LayerSolution, solved_layers
from rebasin_cli.commands.merge.least_squares.widening import Wider, widening
from rebasin_cli.commands.merge.least_squares.wider_mean import WiderMean
from rebasin_cli.commands.merge.merged import Merged, Solved
from rebasin_cli.commands.merge.run import brought_together, merged_outcome, save_parents
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.network.built import build_network
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import Report
from rebasin_cli.renormalization.plan import has_batch_norm
from rebasin_cli.renormalization.run import Parents, correct_statistics
from rebasin_cli.tensors import TensorSource, infos
from rebasin_cli.tensors.derived import Replaced


def run_least_squares(plan: LeastSquaresPlan, progress: Progress) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model."""
    merge = plan.merge
    if merge.target.place.skip:
        yield LeftAsIs(merge.target.path, "exists")
        return
    began = perf_counter()
    together = brought_together(merge, progress)
    save_parents(merge, together, progress)
    models = [build_network(plan.code.network, s, merge.machine) for s in together.sources]
    wider = widening(plan, together.sources[0], models, progress)
    average = WiderMean(together.mean, together.sources, plan.shares, wider.tensors)
    solution = solved_layers(plan, models, average, wider.tensors, progress)
    source, report = _renormalized(plan, Replaced(average, solution.tensors), progress)
    progress(f"writing {merge.target.path.name}", 0, 0)
    others = {name: average.info(name) for name in wider.tensors}
    result = Result(source, merge.models[0], _facts(plan), others=others)
    written = write_result(
        result, merge.target, plan.request, inputs=merge.models, found=together.found
    )
    merged = merged_outcome(merge, together, written, perf_counter() - began)
    stale = report is None and has_batch_norm(merge.models[0])
    solved = _outcome(plan, models[0], average, wider, solution)
    yield replace(merged, solved=solved, report=report, stale=stale)


def _renormalized(
    plan: LeastSquaresPlan, source: TensorSource, progress: Progress
) -> tuple[TensorSource, Report | None]:
    if plan.correction is None:
        return source, None
    code = plan.correction.code
    assert code is not None, "reset runs the model"
    shapes = {
        name: info.shape
        for name, info in infos(source).items()
        if name in code.network.windows and info.shape != code.network.windows[name].shape
    }
    wide = replace(code, network=resized_network(code.network, shapes))
    return correct_statistics(
        source,
        Parents(),
        plan=replace(plan.correction, code=wide),
        machine=plan.merge.machine,
        progress=progress,
    )


def _facts(plan: LeastSquaresPlan) -> dict[str, str]:
    """Return the provenance: what is solved lies in no parent's basin."""
    merge = plan.merge
    width: dict[str, Any] = {"width": plan.request.width} if plan.growth.apart else {}
    return provenance(
        "merge",
        merge.models,
        basin=None,
        spec=merge.choice.name if merge.choice else None,
        seed=plan.request.computing.seed,
        strategy=merge.strategy,
        weights=list(merge.mixture.weights.models),
        method=plan.request.search.method,
        **width,
    )


def _outcome(
    plan: LeastSquaresPlan,
    model: nn.Module,
    average: WiderMean,
    wider: Wider,
    solution: LayerSolution,
) -> Solved:
    windows, held = plan.code.network.windows, dict(model.named_parameters())
    own = {name for name, window in windows.items() if window.source in held}
    return Solved(
        layers=solution.fits,
        others=solution.others,
        width=plan.request.width,
        wider={name: (axis.before, len(axis)) for name, axis in wider.groups.items()},
        narrow=wider.narrow,
        parameters=_parameters(average, own),
        single=_parameters(plan.merge.models[0], own),
        difference=wider.difference,
    )


def _parameters(source: TensorSource, names: Collection[str]) -> int:
    return sum(info.numel for name, info in infos(source).items() if name in names)

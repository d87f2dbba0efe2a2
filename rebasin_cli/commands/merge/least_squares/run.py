"""Carrying out `rebasin merge --method least-squares`: align, average, solve layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from rebasin_cli.commands.merge.common_frame import ModelsInFrame
from rebasin_cli.commands.merge.least_squares.plan import LeastSquaresPlan, SolvedMeanPlan
from rebasin_cli.commands.merge.least_squares.solution import LayerSolution, solved_layers
from rebasin_cli.commands.merge.least_squares.widening import Wider, plan_wider_axes
from rebasin_cli.commands.merge.least_squares.wider_mean import WiderMean
from rebasin_cli.commands.merge.merged import Merged, Solved
from rebasin_cli.commands.merge.run import MadeModel, run_making, running_facts
from rebasin_cli.files.write import Result
from rebasin_cli.network.built import build_network
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import CorrectionReport
from rebasin_cli.renormalization.run import Parents, correct_statistics
from rebasin_cli.tensors import TensorInfo, TensorSource, infos
from rebasin_cli.tensors.derived import Replaced


def run_least_squares(plan: LeastSquaresPlan, progress: Progress) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model."""
    yield from run_making(plan.merge, partial(_make_model, plan), progress)


def _make_model(plan: LeastSquaresPlan, together: ModelsInFrame, progress: Progress) -> MadeModel:
    found = solved_mean(plan, together, progress)
    source, report = _correct_statistics(plan, found.source, progress)
    result = Result(source, plan.merge.models[0], solved_facts(plan), others=found.others)
    return MadeModel(result, report, lambda merged: replace(merged, solved=_outcome(plan, found)))


@dataclass(frozen=True)
class SolvedMean:
    """The mean of models with weights that were solved. model: the first of them, built."""

    model: nn.Module
    average: WiderMean
    wider: Wider
    solution: LayerSolution

    @property
    def source(self) -> TensorSource:
        """The merged model."""
        return Replaced(self.average, self.solution.tensors)

    @property
    def others(self) -> dict[str, TensorInfo]:
        """Its tensors that are wider than those of the models."""
        return {name: self.average.info(name) for name in self.wider.tensors}


def solved_mean(plan: SolvedMeanPlan, together: ModelsInFrame, progress: Progress) -> SolvedMean:
    """Return what the aligned models of a plan make."""
    network, machine = plan.code.network, plan.merge.machine
    models = [build_network(network, source, machine) for source in together.sources]
    wider = plan_wider_axes(plan, together.sources[0], models, progress)
    average = WiderMean(together.mean, together.sources, plan.shares, wider.tensors)
    solution = solved_layers(plan, models, average, wider.tensors, progress)
    return SolvedMean(models[0], average, wider, solution)


def _correct_statistics(
    plan: SolvedMeanPlan, source: TensorSource, progress: Progress
) -> tuple[TensorSource, CorrectionReport | None]:
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


def solved_facts(plan: SolvedMeanPlan) -> dict[str, str]:
    """Return the provenance: what is solved lies in no parent's basin."""
    width: dict[str, Any] = {"width": plan.request.width} if plan.growth.apart else {}
    return running_facts(plan.merge, plan.request.search.method, **width)


def _outcome(plan: SolvedMeanPlan, found: SolvedMean) -> Solved:
    windows, held = plan.code.network.windows, dict(found.model.named_parameters())
    own = {name for name, window in windows.items() if window.source in held}
    return Solved(
        layers=found.solution.fits,
        others=found.solution.others,
        width=plan.request.width,
        wider={name: (axis.before, len(axis)) for name, axis in found.wider.groups.items()},
        narrow=found.wider.narrow,
        parameters=_parameters(found.average, own),
        single=_parameters(plan.merge.models[0], own),
        difference=found.wider.difference,
    )


def _parameters(source: TensorSource, names: Collection[str]) -> int:
    return sum(info.numel for name, info in infos(source).items() if name in names)

"""Correcting the models between two others before they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebasin_cli.evaluate.correcting import Correcting, Goals
from rebasin_cli.evaluate.layer_statistics import LayerStatistics, goals
from rebasin_cli.evaluate.measuring import layer_statistics
from rebasin_cli.evaluate.renormalize import renormalize
from rebasin_cli.plan.barrier import BarrierPlan
from rebasin_cli.plan.barrier_outcome import Spot
from rebasin_cli.progress import Progress
from rebasin_cli.run.bench import Correct
from rebasin_cli.run.network import batches_of, built
from rebasin_cli.tensors import TensorSource


def has_running_statistics(model: nn.Module) -> bool:
    """Return whether a layer keeps statistics of what it has read."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())


def point_corrector(
    plan: BarrierPlan, sources: Sequence[TensorSource], progress: Progress
) -> Correct:
    """Return what corrects a mixture of sources by the plan's method, on the plan's data.

    The sources are measured once, when the first point needs it; what a mixture should do follows
    from its weights.
    """
    batches = batches_of(plan.door, plan.machine, plan.options)
    how = Correcting(plan.renormalize or "")

    @cache
    def known() -> dict[str, LayerStatistics]:
        if how.method == "reset":
            return {}
        progress("measuring the models", 0, 0)
        models = [built(plan.door.network, source, plan.machine) for source in sources]
        return layer_statistics(models, batches, together=how.method == "closed-form")

    def correct(model: nn.Module, spot: Spot) -> None:
        renormalize(model, Goals(goals(known(), spot.weights)), batches, how)

    return correct

"""Looking into two models and their midpoint, layer by layer, on the data of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from rebasin_cli.commands.barrier.layers.figures import Anatomized, Trio, anatomy
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.merging.sources import Mean
from rebasin_cli.network.built import batches_of, built
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource


def anatomized(
    plan: BarrierPlan, ends: Sequence[TensorSource], progress: Progress, *, aligned: bool
) -> Anatomized:
    """Return the figures of the layers of two models and of their midpoint."""
    began = perf_counter()
    midpoint = Mean(ends, (0.5, 0.5), 0, plan.request.selection.selects)
    network, machine = plan.code.network, plan.machine
    trio = Trio(*(built(network, source, machine) for source in (*ends, midpoint)))
    found = anatomy(trio, batches_of(plan.code, machine), progress=progress)
    paths = tuple(model.path for model in plan.models)
    return Anatomized(paths, found, aligned, perf_counter() - began)

"""Looking into two models and their midpoint, layer by layer, on the data of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from rebasin_cli.commands.barrier.layers.figures import DiagnosedLayers, Trio, diagnose_layers
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.merging.sources import Mean
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource


def diagnose_midpoint(
    plan: BarrierPlan, ends: Sequence[TensorSource], progress: Progress, *, aligned: bool
) -> DiagnosedLayers:
    """Return the figures of the layers of two models and of their midpoint."""
    began = perf_counter()
    midpoint = Mean(ends, (0.5, 0.5), 0, plan.request.selection.selects)
    network, machine = plan.code.network, plan.machine
    trio = Trio(*(build_network(network, source, machine) for source in (*ends, midpoint)))
    found = diagnose_layers(trio, batches_of(plan.code, machine), progress=progress)
    paths = tuple(model.path for model in plan.models)
    return DiagnosedLayers(paths, found, aligned, perf_counter() - began)

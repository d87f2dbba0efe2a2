"""The plan of `rebasin transport`: whose difference goes to which model, by which maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from rebasin_cli.checkpoint.endings import name_without_ending
from rebasin_cli.commands.transport.by_adapter import AdapterPlan, open_adapter, plan_adapter
from rebasin_cli.commands.transport.by_permutations import plan_permutations
from rebasin_cli.commands.transport.by_rotations import plan_rotation_way
from rebasin_cli.commands.transport.command import (
    AUTO,
    DELTA,
    LAYERWISE,
    MODEL,
    PERMUTATION,
    TransportRequest,
)
from rebasin_cli.commands.transport.layerwise.by_layers import plan_layers
from rebasin_cli.commands.transport.scored_models import Bench
from rebasin_cli.commands.transport.tensor_fates import TensorFates, fates_of
from rebasin_cli.commands.transport.way import ThreeModels, TransportWay
from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_file, result_ending
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.folding.tied_heads import untied_network
from rebasin_cli.network.network import plan_network, plan_user_code

WAYS: Mapping[str, Callable[[ThreeModels, TensorFates, TransportRequest], TransportWay]] = {
    PERMUTATION: plan_permutations,
    "orthogonal": plan_rotation_way,
    LAYERWISE: plan_layers,
}
WORDS = {MODEL: "transported", DELTA: "delta"}  # in the names of results


@dataclass(frozen=True)
class TransportPlan:
    """All that `run_transport` needs.

    way: with the models. fates: of each tensor. place: where the result goes, in the form of the
    target. bench: where models are judged, if they are.
    """

    way: TransportWay
    fates: TensorFates
    place: Target
    bench: Bench | None
    request: TransportRequest

    @property
    def judged(self) -> Bench:
        """Where models are judged, in a plan that says how."""
        assert self.bench is not None, "the plan has seen to it"
        return self.bench

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        request, way = self.request, self.way
        return {
            "command": "transport",
            "inputs": describe_inputs([way.tuned, way.origin, way.target]),
            "map": request.map,
            "scale": AUTO if request.scale is None else request.scale,
            "mask_gradients": request.masked,
            "as": request.form,
            "carried": len(self.fates.carried),
            "replaced": sorted(self.fates.replaced),
            "outputs": [describe_target(self.place)],
            **way.describe(),
        }


def plan_transport(request: TransportRequest) -> TransportPlan | AdapterPlan:
    """Return what carrying a difference will do; nothing is read but headers.

    Raises UsageError for a map, a form or a scale that is none, CheckpointError for models that do
    not belong together.
    """
    look_up("map", request.map, WAYS)
    look_up("form of --as", request.form, WORDS)
    if request.scale is not None and not isfinite(request.scale):
        raise UsageError(f"--scale {request.scale} is not a finite number")
    adapter = open_adapter(request)
    if adapter is not None:
        return plan_adapter(adapter, request)
    tuned, origin, target = open_transported(request)
    fates = fates_of(tuned, origin, target, request.selection)
    if request.from_model is not None and request.map != LAYERWISE:
        raise UsageError("--from-model is of --map layerwise: other maps need two of one class")
    way = WAYS[request.map]((tuned, origin, target), fates, request)
    if way.heads:  # tensors of their own now, with a difference of their own
        fates = fates_of(way.tuned, way.origin, way.target, request.selection)
    bench = _bench(way, fates, request)
    return TransportPlan(way, fates, _place(way, request), bench, request)


def open_transported(request: TransportRequest) -> ThreeModels:
    """Return the tuned model, its origin and the target, under the names of the target."""
    paths = [request.onto, request.origin, request.tuned]
    target, origin, tuned = open_models(paths, request.selection)
    refuse_codes([tuned, origin, target], request.selection, done="added to")
    return tuned, origin, target


def _bench(way: TransportWay, fates: TensorFates, request: TransportRequest) -> Bench | None:
    """Return where models are judged, None if nothing says how.

    With another head than that of the target all are judged that have the tuned model's.
    """
    data, needed = request.data, request.masked or request.scale is None
    if not needed and data.data is None and data.evaluate is None:
        return None
    like = way.tuned if fates.replaced else way.target
    selection, tracing = request.selection, request.tracing
    code = plan_user_code(like.undivided, selection, tracing, data, fed=needed)
    network = untied_network(code.network, way.heads)
    other = request.from_model is not None
    tuned = plan_network(way.tuned, selection, request.tracing_of_origin) if other else network
    return Bench(replace(code, network=network), tuned, way.machine)


def _place(way: TransportWay, request: TransportRequest) -> Target:
    """Return where the result goes: beside the tuned model, in the form of the target, or to -o."""
    output, word, target = request.output, WORDS[request.form], way.target
    path = way.tuned.path.absolute()
    stem = path.name if way.tuned.path.is_dir() else name_without_ending(path)
    out = output_file(output, f"{stem}.{word}", result_ending(target, output))
    out = out if output.path else way.tuned.path.parent / out
    return plan_target(
        out,
        target,
        request.selection,
        output,
        own=[target, way.origin, way.tuned],
        create=output.names_folder,
    )

"""A difference carried layer by layer, by maps that keep no function and need no common order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.alignment.problem import tell_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.command import TransportRequest
from rebasin_cli.commands.transport.held_out import learned_batches
from rebasin_cli.commands.transport.layerwise.layer_maps import layer_maps, tensor_maps
from rebasin_cli.commands.transport.layerwise.tensor_maps import TensorMap
from rebasin_cli.commands.transport.tensor_fates import TensorFates, refuse_replaced
from rebasin_cli.commands.transport.transported import CarriedFrame
from rebasin_cli.commands.transport.way import CarriedModels, ThreeModels
from rebasin_cli.errors import UsageError
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.files.provenance import basin_of
from rebasin_cli.folding.settled_heads import check_tie
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.network import Network, UserCode, plan_network, plan_user_code
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.wording import count, listing


class LayerMapped(Derived):
    """A TensorSource of the target's shapes, each tensor mapped from that of another model.

    What has no map is zero: of a difference nothing is left.
    """

    def __init__(
        self, like: TensorSource, source: TensorSource, maps: Mapping[str, TensorMap]
    ) -> None:
        super().__init__(like)
        self._values, self._maps = source, maps

    def load(self, name: str) -> Tensor:
        if name not in self._maps:
            return torch.zeros(self.info(name).shape)
        return self._maps[name].apply(self._values.load(name))


@dataclass(frozen=True)
class LayerWay:
    """Three models, and the user's code: code builds the target, origin_network the other two."""

    tuned: Checkpoint
    origin: Checkpoint
    target: Checkpoint
    fates: TensorFates
    code: UserCode
    origin_network: Network
    machine: Machine
    request: TransportRequest
    spec: None = None
    heads: Heads = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return {"data": self.request.data.data, "batches": self.request.data.batches}

    def bring(self, progress: Progress) -> CarriedModels:
        """Return the tuned model and its origin, each layer where the target has its own."""
        pair = (self.origin_network, self.origin), (self.code.network, self.target)
        first, second = (build_network(net, source, self.machine) for net, source in pair)
        batches = learned_batches(self.request, batches_of(self.code, self.machine))
        own = tensor_maps(first, layer_maps(first, second, batches, progress))
        maps = self._in_files(own)
        target, selection = (
            finite_model(self.target, self.request.selection),
            self.request.selection,
        )
        tuned, origin = (
            LayerMapped(target, finite_model(m, selection), maps) for m in (self.tuned, self.origin)
        )
        left = tuple(sorted(self.fates.carried - maps.keys()))
        lines = [
            f"{count(len(maps), 'tensor')} mapped, each by the inputs and outputs of its layer"
        ]
        if left:
            lines.append(f"no layer tells of them, so they stay: {listing(left)}")
        frame = CarriedFrame(target, tuned, origin)
        told, basin = {"unmapped": list(left)}, basin_of(self.target)
        return CarriedModels(frame, tuple(lines), told, basin, len(left))

    def _in_files(self, own: Mapping[str, TensorMap]) -> dict[str, TensorMap]:
        """Return the maps by names in files, of tensors that then fit the target."""
        windows = self.origin_network.windows
        found = {
            name: own[windows[name].source]
            for name in self.fates.carried
            if name in windows
            and windows[name].source in own
            and not self.origin.info(name).dtype.is_complex
        }
        return {
            name: one
            for name, one in found.items()
            if one.shape_after(self.origin.info(name).shape) == self.target.info(name).shape
        }


def plan_layers(models: ThreeModels, fates: TensorFates, request: TransportRequest) -> LayerWay:
    """Return how layers will be mapped; the models are built, without memory.

    models: the tuned one, its origin, the target. Raises UsageError without a model and data.
    """
    check_tie(request.tie, folds=False)
    tuned, origin, target = models
    refuse_replaced(fates, tuned, origin)
    if request.search != Search():
        raise UsageError(
            "--map layerwise finds no permutations, and knows no options of their search",
            hint="leave out --method and the like",
        )
    reason = "--map layerwise asks what layers do, and not which units may change places"
    tell_idle(request, reason, **{"--model": None})
    machine = plan_machine(request.computing, Search()).for_maps
    code = plan_user_code(target, request.selection, request.tracing, request.data, fed=True)
    network = plan_network(origin, request.selection, request.tracing_of_origin)
    return LayerWay(tuned, origin, target, fates, code, network, machine, request)

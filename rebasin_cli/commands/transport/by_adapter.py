"""An adapter carried from one base to another: it is a difference, and its factors move exactly.

B A of a LoRA becomes P B and A Q' where its weight W becomes P W Q': no values of a base are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_cli.adapters.adapter import Adapter, adapter_configuration, bind_adapter
from rebasin_cli.adapters.factor_names import is_adapter
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.by_permutations import PermutationWay, plan_permutations
from rebasin_cli.commands.transport.command import PERMUTATION, TransportRequest
from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs, open_by_itself, open_models
from rebasin_cli.files.output_names import own_target
from rebasin_cli.files.places import files_of
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.options.selection import Selection
from rebasin_cli.permuted import Permuted


@dataclass(frozen=True)
class AdapterPlan:
    """All that carrying an adapter needs. bound: what its tensors follow."""

    adapter: Checkpoint
    way: PermutationWay
    bound: Adapter
    place: Target
    request: TransportRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "transport",
            "inputs": describe_inputs([self.adapter, self.way.origin, self.way.target]),
            "map": PERMUTATION,
            "adapter": True,
            "carried": len(self.bound.tensors),
            "outputs": [describe_target(self.place)],
            **self.way.describe(),
        }

    def moved(self, matching: Matching) -> Permuted:
        """Return the adapter for the target's order of units."""
        return Permuted(self.adapter, self.bound.tensors, matching.permutations)


def open_adapter(request: TransportRequest) -> Checkpoint | None:
    """Return what is to be carried if it is an adapter; None: it is a model."""
    found = open_by_itself(request.tuned, request.selection, adapters=True)
    told = adapter_configuration(request.tuned)
    return found if told or is_adapter(found.names()) else None


def plan_adapter(adapter: Checkpoint, request: TransportRequest) -> AdapterPlan:
    """Return how an adapter will be carried; nothing is read but headers.

    Raises UsageError for what adapters have no use for, PermutationError for tensors that follow
    nothing that is known.
    """
    if request.map != PERMUTATION or request.masked or request.scale != 1:
        raise UsageError(
            f"{request.tuned} is an adapter: it is carried by permutations, whole and as it is",
            hint="leave out --map, --scale and --mask-gradients; its own alpha is its scale",
        )
    selection, output = request.selection, request.output
    target, origin = open_models([request.onto, request.origin], selection)
    way = plan_permutations((adapter, origin, target), TensorFates(frozenset(), {}), request)
    bound = bind_adapter(adapter, origin, way.problem.choice.bound, keep_unknown=False)
    others = [file for model in (origin, target) for file in files_of(model)]
    place = own_target(adapter, Selection(), output, word="transported", others=others)
    return AdapterPlan(adapter, way, bound, place, request)

"""The plan of `rebasin transport`: whose difference goes to which model, by which maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.endings import name_without_ending
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.by_permutations import plan_permutations
from rebasin_cli.commands.transport.request import DELTA, MODEL, TransportRequest
from rebasin_cli.commands.transport.tensor_fates import TensorFates, fates_of
from rebasin_cli.commands.transport.way import Way
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import ending, output_file
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.matching.problem.settings import look_up

Models = tuple[Checkpoint, Checkpoint, Checkpoint]

WAYS: Mapping[str, Callable[[Models, TensorFates, TransportRequest], Way]] = {
    "permutation": plan_permutations,
}
WORDS = {MODEL: "transported", DELTA: "delta"}  # in the names of results


@dataclass(frozen=True)
class TransportPlan:
    """All that `run_transport` needs.

    tuned, origin: opened; the target is that of the way. fates: of each tensor. place: where the
    result goes, in the form of the target.
    """

    tuned: Checkpoint
    origin: Checkpoint
    way: Way
    fates: TensorFates
    place: Target
    request: TransportRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        request = self.request
        return {
            "command": "transport",
            "inputs": describe_inputs([self.tuned, self.origin, self.way.target]),
            "map": request.map,
            "scale": request.scale,
            "as": request.form,
            "carried": len(self.fates.carried),
            "replaced": sorted(self.fates.replaced),
            "outputs": [describe_target(self.place)],
            **self.way.describe(),
        }


def plan_transport(request: TransportRequest) -> TransportPlan:
    """Return what carrying a difference will do; nothing is read but headers.

    Raises UsageError for a map, a form or a scale that is none, CheckpointError for models that do
    not belong together.
    """
    look_up("map", request.map, WAYS)
    look_up("form of --as", request.form, WORDS)
    if request.scale is not None and not isfinite(request.scale):
        raise UsageError(f"--scale {request.scale} is not a finite number")
    tuned, origin, target = open_transported(request)
    fates = fates_of(tuned, origin, target, request.selection)
    way = WAYS[request.map]((tuned, origin, target), fates, request)
    place = _place(tuned, origin, way.target, request)
    return TransportPlan(tuned, origin, way, fates, place, request)


def open_transported(request: TransportRequest) -> Models:
    """Return the tuned model, its origin and the target, under the names of the tuned one."""
    paths = [request.tuned, request.origin, request.target]
    adapter = request.tuned / "adapter_config.json"
    if adapter.is_file():
        raise UsageError(
            f"{request.tuned} is an adapter, not a model",
            hint="merge it into its base (merge_and_unload of peft), and give that as TUNED",
        )
    tuned, origin, target = open_models(paths, request.selection)
    refuse_codes([tuned, origin, target], request.selection, done="added to")
    return tuned, origin, target


def _place(
    tuned: Checkpoint, origin: Checkpoint, target: Checkpoint, request: TransportRequest
) -> Target:
    """Return where the result goes: beside the tuned model, in the form of the target, or to -o."""
    output, word = request.output, WORDS[request.form]
    path = tuned.path.absolute()
    stem = path.name if tuned.path.is_dir() else name_without_ending(path)
    name = f"{stem}.{word}{ending(target, output)}"
    out = output_file(output, name) if output.path else Path(tuned.path.parent, name)
    return plan_target(
        out,
        target,
        request.selection,
        output,
        own=[target, origin, tuned],
        create=output.names_folder,
    )

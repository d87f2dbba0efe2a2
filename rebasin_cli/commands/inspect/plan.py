"""The plan of `rebasin inspect`, which writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.parts import Rest
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.inspect.command import InspectRequest
from rebasin_cli.files.inputs import describe_inputs, open_models


@dataclass(frozen=True)
class InspectPlan:
    """Models to look at."""

    models: tuple[Checkpoint, ...]
    request: InspectRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {"command": "inspect", "inputs": describe_inputs(self.models)}


def plan_inspect(request: InspectRequest) -> InspectPlan:
    """Return which models will be looked at; nothing is read but headers."""
    return InspectPlan(tuple(open_models(request.models, request.selection)), request)


@dataclass(frozen=True)
class Inspected:
    """What is in a checkpoint, from its headers.

    rest: what a .pt holds beside the weights. fits: what each bundled spec says of it.
    """

    path: Path
    format: str
    files: int
    bytes: int
    tensors: tuple[Mapping[str, Any], ...]
    parameters: int
    dtypes: Mapping[str, int]
    ties: Mapping[str, str]
    metadata: Mapping[str, str]
    rest: Rest
    fits: Mapping[str, str]

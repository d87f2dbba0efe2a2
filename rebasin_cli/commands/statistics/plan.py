"""The plan of `rebasin statistics`: which models run on which data, where the figures go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.activations.observe import check_places
from rebasin_cli.checkpoint import Checkpoint, Written
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.targets import Place, files_of, plan_place
from rebasin_cli.network.network import Door, plan_door
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.spec_choice.choice import Choice, choose_spec


@dataclass(frozen=True)
class StatisticsPlan:
    """All that `run_statistics` needs. models: one or two, of one architecture."""

    models: tuple[Checkpoint, ...]
    choice: Choice
    door: Door
    machine: Machine
    place: Place
    request: StatisticsRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "statistics",
            "inputs": describe_inputs(self.models),
            "outputs": [{"path": str(self.place.path), "format": "safetensors"}],
            "spec": self.choice.name,
            "point": self.request.activations.moment,
            "stream": self.request.activations.reach,
            "data": self.request.data.data,
            "device": self.machine.device,
        }


def plan_statistics(paths: Sequence[Path], request: StatisticsRequest) -> StatisticsPlan:
    """Return what observing one model or a pair will do; nothing is read but headers."""
    if not 1 <= len(paths) <= 2:
        raise UsageError(
            f"statistics are of one model or of a pair, not of {len(paths)}",
            hint="rebasin statistics MODEL, or rebasin statistics A B",
        )
    check_places(request.activations)
    machine = plan_machine(request.computing, request.search)
    models = open_models(paths, request.selection)
    check_fit(models[0], models[1:], request.selection, request.tracing)
    door = plan_door(
        models[0], request.selection, request.tracing, request.data, data=True, judged=False
    )
    choice = choose_spec(models, request.selection, request.tracing)
    inputs = [file for model in models for file in files_of(model)]
    out = request.output.path or Path(f"{models[0].path.absolute().stem}.statistics.safetensors")
    place = plan_place(out, request.output, others=inputs)
    return StatisticsPlan(tuple(models), choice, door, machine, place, request)


@dataclass(frozen=True)
class Observed:
    """A file of statistics that was written.

    samples: at the place that has most. groups: whose units it tells of, by name: their number.
    unseen: groups of which it does not.
    """

    models: tuple[Path, ...]
    spec: str
    moment: str
    samples: int
    groups: Mapping[str, int]
    unseen: tuple[str, ...]
    written: Written
    seconds: float

"""The plan of `rebasin statistics`: which models run on which data, where the figures go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.plan.choice import Choice, choose_spec
from rebasin_cli.plan.estimate import describe_inputs
from rebasin_cli.plan.inputs import check_fit, open_models
from rebasin_cli.plan.machine import Machine, plan_machine
from rebasin_cli.plan.methods import check_places
from rebasin_cli.plan.network import Door, plan_door
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.targets import Place, files_of, plan_place


@dataclass(frozen=True)
class StatisticsPlan:
    """All that `run_statistics` needs. models: one or two, of one architecture."""

    models: tuple[Checkpoint, ...]
    choice: Choice
    door: Door
    machine: Machine
    place: Place
    options: Options

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "statistics",
            "inputs": describe_inputs(self.models),
            "outputs": [{"path": str(self.place.path), "format": "safetensors"}],
            "spec": self.choice.name,
            "point": self.options.activations.moment,
            "stream": self.options.activations.reach,
            "data": self.options.running.data,
            "device": self.machine.device,
        }


def plan_statistics(paths: Sequence[Path], options: Options) -> StatisticsPlan:
    """Return what observing one model or a pair will do; nothing is read but headers."""
    if not 1 <= len(paths) <= 2:
        raise UsageError(
            f"statistics are of one model or of a pair, not of {len(paths)}",
            hint="rebasin statistics MODEL, or rebasin statistics A B",
        )
    check_places(options.activations)
    machine = plan_machine(options)
    models = open_models(paths, options)
    check_fit(models[0], models[1:], options)
    door = plan_door(models[0], options, data=True, judged=False)
    choice = choose_spec(models, options)
    inputs = [file for model in models for file in files_of(model)]
    out = options.out or Path(f"{models[0].path.absolute().stem}.statistics.safetensors")
    place = plan_place(out, options, others=inputs)
    return StatisticsPlan(tuple(models), choice, door, machine, place, options)

"""The plan of `rebasin statistics`: which models run on which data, where the figures go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.activations.observe import check_places, unit_room
from rebasin_cli.alignment.problem import open_problem
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.statistics.command import StatisticsRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.output_names import output_file
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.files.result_memory import run_bytes
from rebasin_cli.files.targets import check_ending
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import infos
from rebasin_cli.tracer.points.points import Point, point_kind


@dataclass(frozen=True)
class StatisticsPlan:
    """All that `run_statistics` needs. models: one or two, of one architecture."""

    models: tuple[Checkpoint, ...]
    choice: Choice
    code: UserCode
    machine: Machine
    place: OutputPlace
    request: StatisticsRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "statistics",
            "inputs": describe_inputs(self.models),
            "outputs": [{"path": str(self.place.path), "format": "safetensors"}],
            "spec": self.choice.name,
            "point": self.request.activations.point,
            "stream": self.request.activations.stream,
            "data": self.request.data.data,
            "device": self.machine.device,
            "memory": self.memory,
        }

    @property
    def memory(self) -> int:
        """The estimated peak in bytes, without what a pass over a batch takes."""
        models = len(self.models) * run_bytes(self.models[0])
        sizes = (info.nbytes for info in infos(self.models[0]).values())
        pair = len(self.models) > 1
        return models + max(sizes, default=0) + pair * unit_room(self.points, self.choice.bound)

    @property
    def points(self) -> Sequence[Point]:
        """The places in the model whose units are looked at."""
        assert self.choice.traced is not None, "the plan has seen to it that a model is named"
        chosen = self.request.activations
        return self.choice.traced.known.trace.points[point_kind(chosen.point, chosen.stream)]


def plan_statistics(request: StatisticsRequest) -> StatisticsPlan:
    """Return what observing one model or a pair will do; nothing is read but headers."""
    if not 1 <= len(request.models) <= 2:
        raise UsageError(
            f"statistics are of one model or of a pair, not of {len(request.models)}",
            hint="rebasin statistics MODEL, or rebasin statistics A B",
        )
    check_places(request.activations)
    problem = open_problem(request.models, request, searched=False)
    models = problem.models
    code = plan_user_code(models[0], request.selection, request.tracing, request.data, fed=True)
    inputs = [file for model in models for file in files_of(model)]
    stem, output = models[0].path.absolute().stem, request.output
    out = output_file(output, f"{stem}.statistics", ".safetensors")
    check_ending(out)
    place = plan_place(out, output, others=inputs, create=output.names_folder)
    return StatisticsPlan(models, problem.choice, code, problem.machine, place, request)


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

"""The plan of `rebasin barrier`: which points between which models, how each is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching, estimate_memory
from rebasin_cli.alignment.problem import MatchingProblem, open_problem, tell_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.barrier.command import BarrierRequest
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.execution.workers import LOCAL, Workers, plan_workers
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.places import OutputPlace, files_of
from rebasin_cli.files.result_memory import STREAMED, mean_bytes, run_bytes, stored_bytes
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations, rotates
from rebasin_cli.folding.tied_heads import untied_network
from rebasin_cli.merging.weights import FARTHEST, check_alphas
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.pictures.drawing import plan_drawing
from rebasin_cli.renormalization.correction_methods import METHODS
from rebasin_cli.spec_choice.choice import Choice

STEPS, GRID = 25, 11  # points of a line; rows and columns of a plane
MARGIN = 0.2
MOST = 100_000
CORRECTIONS = tuple(METHODS)  # not calibrate, which knows no mixtures but averages


@dataclass(frozen=True)
class BarrierPlan:
    """All that `run_barrier` needs.

    alphas: of the points on the line; empty for a plane, which has `steps` rows and columns.
    choice: None unless the models are to be aligned. rotation: by orthogonal maps, if by those.
    picture: where one goes, if it is wanted; layers: and that of the layers, with `diagnose`.
    aligned_by: the models whose orders align these, if they are others.
    """

    models: tuple[Checkpoint, ...]
    code: UserCode
    alphas: tuple[float, ...]
    steps: int
    margin: float
    choice: Choice | None
    picture: OutputPlace | None
    machine: Machine
    request: BarrierRequest
    workers: Workers
    layers: OutputPlace | None = None
    rotation: RotationProblem | None = None
    aligned_by: tuple[Checkpoint, ...] = ()

    @property
    def plane(self) -> bool:
        return not self.alphas

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        data = self.request.data
        grid = {"steps": self.steps, "margin": self.margin}
        return {
            "command": "barrier",
            "inputs": describe_inputs(self.models),
            "model": self.request.tracing.target,
            "data": data.data,
            "evaluate": data.evaluate,
            "batches": data.batches,
            "points": grid if self.plane else list(self.alphas),
            "align": self.choice is not None,
            "renormalize": self.request.renormalize,
            "diagnose": self.request.diagnose,
            "plot": str(self.picture.path) if self.picture else None,
            "layers": str(self.layers.path) if self.layers else None,
            "resume": str(self.request.resume) if self.request.resume else None,
            **describe_matching(self.choice, self.machine, self.request.search, self.models),
            **(self.rotation.describe() if self.rotation else {"memory": self.memory}),
        }

    @property
    def memory(self) -> int:
        """The estimated peak in bytes, without what a pass over a batch takes.

        The model that is run, those that points lie between, once more where they are moved, and
        the mean of a tensor, or both models of the ensemble; or what the search for their orders
        takes, before that.
        """
        first, others = self.models[0], len(self.models) - 1
        held = self.holds(stored_bytes(first), self.machine) * stored_bytes(first)
        judged, matched = mean_bytes(self.models), 0
        if self.request.data.evaluate is None and not self.plane:
            judged = max(judged, 2 * run_bytes(first))
        if self.choice:
            matched = max(
                estimate_memory(self.choice, self.machine, self.request.search, self.models),
                others * held,
            )
        if self.request.renormalize not in (None, "reset"):
            judged += (others + 1) * run_bytes(first)
        return run_bytes(first) + (others + 1) * held + max(matched, judged) + STREAMED

    def holds(self, size: int, machine: Machine) -> bool:
        """Return whether there is room for models of so many bytes, as they are and moved."""
        return size * 2 * len(self.models) <= machine.max_memory


def plan_barrier(request: BarrierRequest) -> BarrierPlan:
    """Return what judging the way between the models will do; nothing is read but headers.

    The model may be traced for its spec. Raises UsageError, or what opening the models does.
    """
    _check_way(request)
    if not request.align:
        tell_idle(request, "--no-align aligns nothing", **{"--model": None})
    steps = request.steps or (GRID if request.plane else STEPS)
    alphas = () if request.plane else line_alphas(steps, request.at)
    tracing = request.tracing.unless(request.selection.spec)
    workers = plan_workers(request, tasks=len(alphas) or steps**2)
    request = replace(request, computing=workers.here(request.computing))
    rotation = _rotation(request) if rotates(request.symmetry, tie=request.tie) else None
    problem: MatchingProblem[Choice | None] = rotation or open_problem(
        request.models, replace(request, tracing=tracing), matched=request.align
    )
    models = problem.models
    fed = request.renormalize is not None or request.diagnose
    code = plan_user_code(
        models[0].undivided, request.selection, request.tracing, request.data, fed=fed, judged=True
    )
    if rotation:
        code = replace(code, network=untied_network(code.network, rotation.heads))
    inputs = [file for model in models for file in files_of(model)]
    picture = plan_drawing(request.picture, request.output, inputs) if request.picture else None
    layers = _layers_picture(request, inputs)
    _check_resume(request.resume, inputs)
    return BarrierPlan(
        models=models,
        code=code,
        alphas=alphas,
        steps=steps,
        margin=MARGIN if request.margin is None else request.margin,
        choice=problem.choice,
        picture=picture,
        machine=problem.machine,
        request=request,
        workers=workers,
        layers=layers,
        rotation=rotation,
    )


def _rotation(request: BarrierRequest) -> RotationProblem:
    """Return the models, to be rotated; that they keep their functions is seen at the ends.

    Raises UsageError for what does not go with that.
    """
    if not request.align:
        raise UsageError("--symmetry orthogonal aligns the models, and --no-align does not")
    if request.renormalize is not None:
        raise UsageError("--renormalize does not go with --symmetry orthogonal")
    if request.executor != LOCAL:
        raise UsageError(
            f"--executor {request.executor} does not go with --symmetry orthogonal",
            hint="leave out one of the two",
        )
    unchecked = replace(request.computing, check=False)
    return open_rotations(request.models, replace(request, computing=unchecked), tie=request.tie)


def line_alphas(steps: int, at: Sequence[float]) -> tuple[float, ...]:
    """Return the places on a line, in order: k / (steps - 1), or those of `at` and the ends.

    The ends are always there: without them there is no barrier.
    """
    check_alphas(at)
    return tuple(sorted({*(at or (k / (steps - 1) for k in range(steps))), 0.0, 1.0}))


def _layers_picture(request: BarrierRequest, inputs: Sequence[Path]) -> OutputPlace | None:
    """Return where the picture of the layers goes: beside the other, NAME-layers."""
    if request.picture is None or not request.diagnose:
        return None
    return plan_drawing(
        request.picture.with_stem(f"{request.picture.stem}-layers"), request.output, inputs
    )


def _check_way(request: BarrierRequest) -> None:
    """Raise UsageError for what no reading of headers is needed to see."""
    count = 3 if request.plane else 2
    if len(request.models) != count:
        hints = {3: "--plane takes three models", **dict.fromkeys(range(3), "rebasin barrier A B")}
        hint = hints.get(len(request.models), "--series takes many pairs of models")
        raise UsageError(f"barrier takes {count} models, not {len(request.models)}", hint=hint)
    if request.plane and request.at:
        raise UsageError("--at says where on a line, and --plane has none", hint="--steps 11")
    if request.plane and request.renormalize:
        raise UsageError("--renormalize is for a line, not for --plane")
    if request.renormalize is not None and request.renormalize not in CORRECTIONS:
        raise UsageError(
            f"--renormalize {request.renormalize}: no such correction of points",
            hint=suggest(request.renormalize, CORRECTIONS) or ", ".join(CORRECTIONS),
        )
    if request.plane and request.diagnose:
        raise UsageError("--diagnose is for two models, not for --plane")
    if request.steps is not None and request.at:
        raise UsageError("--steps and --at exclude each other")
    most = int(MOST**0.5) if request.plane else MOST
    if request.steps is not None and not 2 <= request.steps <= most:
        raise UsageError(f"--steps {request.steps}: from 2 to {most:,} are possible")
    if request.margin is not None:
        _check_margin(request.margin, request.plane)


def _check_margin(margin: float, plane: bool) -> None:
    if not plane:
        raise UsageError("--margin is around the models of a --plane")
    if not 0 <= margin <= FARTHEST:
        raise UsageError(f"--margin {margin}: a share of the plane, 0 or more")


def _check_resume(path: Path | None, inputs: Sequence[Path]) -> None:
    """Raise UsageError if points cannot be kept in a file."""
    if path is None:
        return
    if path.exists() and any(path.samefile(file) for file in inputs if file.exists()):
        raise UsageError(f"--resume {path} is one of the models", hint="choose another file")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--resume {path}: no file can be there", hint="--resume points.ndjson")

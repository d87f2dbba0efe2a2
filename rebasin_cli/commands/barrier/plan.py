"""The plan of `rebasin barrier`: which points between which models, how each is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import check_search, describe_matching
from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.commands.lerp.plan import FARTHEST
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.targets import Place, files_of, plan_place
from rebasin_cli.network.network import Door, plan_door
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.renormalization.correction_methods import METHODS
from rebasin_cli.spec_choice.choice import Choice, choose_spec

STEPS, GRID = 25, 11  # points of a line; rows and columns of a plane
MARGIN = 0.2
MOST = 100_000
# calibrate knows no mixtures but averages
CORRECTIONS = tuple(name for name in METHODS if name != "calibrate")
PICTURES = (".png", ".svg", ".html")


@dataclass(frozen=True)
class Course:
    """What is asked of the way between models.

    steps: points, ends included; None: the usual. at: places on a line instead. align: the other
    models to the first. renormalize: a method that corrects the points between, for one more
    curve. margin: of the plane, beyond the three models. picture, resume: files. diagnose: look
    into the layers too.
    """

    steps: int | None = None
    at: Sequence[float] = ()
    align: bool = True
    plane: bool = False
    margin: float | None = None
    renormalize: str | None = None
    picture: Path | None = None
    resume: Path | None = None
    diagnose: bool = False


@dataclass(frozen=True)
class BarrierPlan:
    """All that `run_barrier` needs.

    alphas: of the points on the line; empty for a plane, which has `steps` rows and columns.
    choice: None unless the models are to be aligned. picture: where one goes, if it is wanted;
    layers: and that of the layers, with `diagnose`.
    """

    models: tuple[Checkpoint, ...]
    door: Door
    alphas: tuple[float, ...]
    steps: int
    margin: float
    renormalize: str | None
    choice: Choice | None
    picture: Place | None
    resume: Path | None
    machine: Machine
    request: BarrierRequest
    diagnose: bool = False
    layers: Place | None = None

    @property
    def plane(self) -> bool:
        return not self.alphas

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        running = self.request.data
        grid = {"steps": self.steps, "margin": self.margin}
        return {
            "command": "barrier",
            "inputs": describe_inputs(self.models),
            "model": self.request.tracing.target,
            "data": running.data,
            "evaluate": running.evaluate,
            "batches": running.batches,
            "points": grid if self.plane else list(self.alphas),
            "align": self.choice is not None,
            "renormalize": self.renormalize,
            "diagnose": self.diagnose,
            "plot": str(self.picture.path) if self.picture else None,
            "resume": str(self.resume) if self.resume else None,
            **(describe_matching(self.choice, self.machine) if self.choice else {}),
        }


def plan_barrier(paths: Sequence[Path], request: BarrierRequest, course: Course) -> BarrierPlan:
    """Return what judging the way between the models will do; nothing is read but headers.

    The model may be traced for its spec. Raises UsageError, or what opening the models does.
    """
    _check_course(paths, course)
    steps = course.steps or (GRID if course.plane else STEPS)
    alphas = () if course.plane else line_alphas(steps, course.at)
    machine = plan_machine(request.computing, request.search)
    models = open_models(paths, request.selection)
    check_fit(models[0], models[1:], request.selection, request.tracing)
    data = course.renormalize is not None or course.diagnose
    door = plan_door(
        models[0], request.selection, request.tracing, request.data, data=data, judged=True
    )
    inputs = [file for model in models for file in files_of(model)]
    picture = plan_picture(course.picture, request, inputs) if course.picture else None
    layers = _layers_picture(course, request, inputs)
    _check_resume(course.resume, inputs)
    choice = choose_spec(models, options.spec_first()) if course.align else None
    if choice:
        check_search(choice, machine, request.search)
    return BarrierPlan(
        models=tuple(models),
        door=door,
        alphas=alphas,
        steps=steps,
        margin=MARGIN if course.margin is None else course.margin,
        renormalize=course.renormalize,
        choice=choice,
        picture=picture,
        resume=course.resume,
        machine=machine,
        request=request,
        diagnose=course.diagnose,
        layers=layers,
    )


def line_alphas(steps: int, at: Sequence[float]) -> tuple[float, ...]:
    """Return the places on a line, in order: k / (steps - 1), or those of `at` and the ends.

    The ends are always there: without them there is no barrier.
    """
    for alpha in at:
        if not (isfinite(alpha) and abs(alpha) <= FARTHEST):
            raise UsageError(f"--at {alpha}: a place is a finite number up to {FARTHEST:g}")
    return tuple(sorted({*(at or (k / (steps - 1) for k in range(steps))), 0.0, 1.0}))


def plan_picture(path: Path, request: BarrierRequest, inputs: Sequence[Path]) -> Place:
    """Return where a picture goes. Raises UsageError if it may not, or for another ending."""
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--plot {path}: no picture has this ending", hint=f"one of {', '.join(PICTURES)}"
        )
    return plan_place(path, request.output, others=inputs)


def _layers_picture(
    course: Course, request: BarrierRequest, inputs: Sequence[Path]
) -> Place | None:
    """Return where the picture of the layers goes: beside the other, NAME-layers."""
    if course.picture is None or not course.diagnose:
        return None
    return plan_picture(course.picture.with_stem(f"{course.picture.stem}-layers"), request, inputs)


def _check_course(paths: Sequence[Path], course: Course) -> None:
    """Raise UsageError for what no reading of headers is needed to see."""
    count = 3 if course.plane else 2
    if len(paths) != count:
        hint = "--plane takes three models" if len(paths) == 3 else "rebasin barrier A B"
        raise UsageError(f"barrier takes {count} models, not {len(paths)}", hint=hint)
    if course.plane and course.at:
        raise UsageError("--at says where on a line, and --plane has none", hint="--steps 11")
    if course.plane and course.renormalize:
        raise UsageError("--renormalize is for a line, not for --plane")
    if course.renormalize is not None and course.renormalize not in CORRECTIONS:
        raise UsageError(
            f"--renormalize {course.renormalize}: no such correction of points",
            hint=suggest(course.renormalize, CORRECTIONS) or ", ".join(CORRECTIONS),
        )
    if course.plane and course.diagnose:
        raise UsageError("--diagnose is for two models, not for --plane")
    if course.steps is not None and course.at:
        raise UsageError("--steps and --at exclude each other")
    most = int(MOST**0.5) if course.plane else MOST
    if course.steps is not None and not 2 <= course.steps <= most:
        raise UsageError(f"--steps {course.steps}: from 2 to {most:,} are possible")
    if course.margin is not None:
        _check_margin(course.margin, course.plane)


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

"""The plan of `rebasin lerp`: which points between which models, and where they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching, in_any_order
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.overlaps import plan_overlaps
from rebasin_cli.alignment.problem import MatchingProblem, open_problem, tell_idle, warn_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.lerp.command import LerpRequest
from rebasin_cli.commands.lerp.exec_hook import split_command
from rebasin_cli.errors import CheckpointError, UsageError, suggest
from rebasin_cli.execution.workers import LOCAL, Workers, plan_workers
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.output_names import result_ending
from rebasin_cli.files.result_memory import ROUNDED, held_bytes, stored_bytes, written_bytes
from rebasin_cli.files.targets import Target, describe_target, output_infos, plan_target
from rebasin_cli.folding.rotation_problem import RotationProblem, open_rotations, rotates
from rebasin_cli.merging.mean import BLENDING, BY_ELEMENT, MODES
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.merging.weights import check_alphas
from rebasin_cli.options.machine import Machine
from rebasin_cli.resuming.finished import plan_finished
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.tensors.ranges import ranges_of

MOST = 999_999  # file names have six decimals
DIGITS = (6, 9, 12, 15)  # of alphas in file names, where those before do not tell them apart


@dataclass(frozen=True)
class LinePoint:
    """One point: alpha counts along the chain, so 1.25 lies a quarter past the second model."""

    alpha: float
    target: Target

    def segment(self, models: int) -> tuple[int, float]:
        """Return the number of the model before the point, and the weight of the next one."""
        left = min(max(int(self.alpha), 0), models - 2)
        return left, self.alpha - left


@dataclass(frozen=True)
class LerpPlan:
    """All that `run_lerp` needs.

    choice, check: None unless the models are to be aligned first. rotation: by orthogonal maps, if
    by those. command: the words of what is run on each point; none: nothing is. overlaps: of each
    model, where its shapes are not the first's.
    """

    models: tuple[Checkpoint, ...]
    points: tuple[LinePoint, ...]
    command: tuple[str, ...]
    keep: bool
    choice: Choice | None
    machine: Machine
    request: LerpRequest
    workers: Workers
    check: FunctionCheck | None = None
    overlaps: tuple[Overlap, ...] = ()
    rotation: RotationProblem | None = None

    @property
    def tensors(self) -> tuple[BoundTensor, ...]:
        """The tensors that may be permuted; none if nothing is aligned."""
        return self.choice.bound.tensors if self.choice else ()

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        matching = describe_matching(self.choice, self.machine, self.request.search, self.models)
        if self.rotation:
            matching |= self.rotation.describe()
        return {
            "command": "lerp",
            "inputs": describe_inputs(self.models),
            "mode": self.request.mode,
            "points": [point.alpha for point in self.points],
            "outputs": [describe_target(point.target) for point in self.points],
            **matching,
            **({} if self.rotation else {"memory": self.memory(matching.get("memory", 0))}),
        }

    def keeps(self, point: LinePoint) -> bool:
        """Return whether the models around a point are kept: if others want them, and fit."""
        left, _ = point.segment(len(self.models))
        wanted = sum(other.segment(len(self.models))[0] == left for other in self.points)
        held = sum(map(stored_bytes, self.models[left : left + 2]))
        return wanted > 1 and held <= self.machine.max_memory

    def memory(self, matching: int = 0) -> int:
        """Return the estimated peak in bytes. matching: of bringing the models together before."""
        first, layout = self.models[0], self.points[0].target.layout
        tensors = output_infos(first, layout, self.request.selection, self.request.output)
        line = written_bytes(layout, tensors) + self._made(layout.format)
        if any(map(self.keeps, self.points)):
            line += sum(map(stored_bytes, self.models[:2]))
        return max(matching, line)

    def _made(self, format: str) -> int:
        """Return the bytes of making the tensor that takes most, beside models that are kept."""
        one, other = self.models[:2]
        ends = (one, in_any_order(other, self.choice) if self.choice else other)
        pieces = format == "safetensors" and self.request.mode in BY_ELEMENT
        whole = ((m, n) for m in ends for n in m.names() if not pieces or ranges_of(m, n) is None)
        kept = 2 * any(map(self.keeps, self.points))
        blending, found = BLENDING[self.request.mode], 0
        for model, name in whole:
            info = model.info(name)
            widened = 0 if info.dtype.itemsize >= ROUNDED else ROUNDED
            mixed = info.reals * (blending + widened) + (2 - kept) * info.nbytes
            found = max(found, mixed, held_bytes(model, name) - kept * info.nbytes)
        return found


def plan_lerp(request: LerpRequest) -> LerpPlan:
    """Return what interpolating between the models will do; nothing is read but headers."""
    rotated = rotates(request.symmetry, tie=request.tie)
    request = replace(request, align=request.align or rotated)
    _check_line(request)
    _tell_unused(request)
    words = split_command(request.command) if request.command is not None else ()
    alphas = _plan_alphas(
        len(request.models) - 1, request.steps, request.at, endpoints=request.endpoints
    )
    ends = set(map(float, range(len(request.models))))  # the models themselves
    rotation = open_rotations(request.models, request, tie=request.tie) if rotated else None
    workers = plan_workers(request, tasks=len(alphas))
    request = replace(request, computing=workers.here(request.computing))
    done = "averaged" if request.align or not set(alphas) <= ends else None
    problem: MatchingProblem[Choice | None] = rotation or open_problem(
        request.models, request, matched=request.align, done=done
    )
    models, choice = problem.models, problem.choice
    _check_chain(models)
    targets = _targets(alphas, models, request, stays=request.keep or not words)
    if workers.repeat:
        targets = [target.again for target in targets]
    return LerpPlan(
        models=models,
        points=tuple(map(LinePoint, alphas, targets)),
        command=words,
        keep=request.keep or not words,
        choice=choice,
        machine=problem.machine,
        request=request,
        workers=workers,
        check=plan_function_check(models[0], request, choice=choice)
        if choice and not rotation
        else None,
        overlaps=plan_overlaps(models, choice, wanted=request.selection.common),
        rotation=rotation,
    )


def _tell_unused(request: LerpRequest) -> None:
    """Warn of options that are of no use to this line."""
    if not request.align:
        tell_idle(request, "nothing is aligned without --align")
    if request.command is None:
        warn_idle({"--keep": request.keep}, "without --exec every point stays")


def _targets(
    alphas: Sequence[float], models: Sequence[Checkpoint], request: LerpRequest, *, stays: bool
) -> list[Target]:
    """Return how each point is written. stays: its file does, once a command was run on it."""
    places = _point_paths(alphas, models[0], request)
    finished = plan_finished(request.resume, "lerp", models, places, request.output)
    if not stays:
        _check_temporary([place for place in places if place not in finished])
    if request.output.card is not None and (len(places) > 1 or not stays):
        raise UsageError("--card is for one result that stays", hint="--at 0.5 -o FILE --card")
    return [
        plan_target(
            place,
            models[0],
            request.selection,
            finished.replacing(place, request.output),
            own=models,
            create=True,
        )
        for place in places
    ]


def _check_line(request: LerpRequest) -> None:
    """Raise UsageError for what no reading of headers is needed to see."""
    if request.mode not in MODES:
        raise UsageError(
            f"no mode is called {request.mode!r}",
            hint=suggest(request.mode, MODES) or "linear, slerp",
        )
    if len(request.models) < 2 or (len(request.models) > 2 and not request.chain):
        hint = "more than two models form a chain with --chain" if len(request.models) > 2 else ""
        raise UsageError(f"lerp takes two models, not {len(request.models)}", hint=hint)
    if request.executor != LOCAL and request.symmetry != PERMUTATION:
        raise UsageError(
            f"--executor {request.executor} does not go with --symmetry {request.symmetry}",
            hint="leave out one of the two",
        )
    if request.tracing.target is not None and not request.align:
        raise UsageError("--model says how to align, and needs --align")


def _check_chain(models: Sequence[Checkpoint]) -> None:
    """Raise CheckpointError if a point of a chain would lack a tensor that its first model has.

    A point has the tensors of the first model, and takes a counter from the one before it.
    """
    for model in models[1:-1]:
        lacking = [name for name in models[0].names() if name not in model.names()]
        if lacking:
            raise CheckpointError(
                f"{lacking[0]} is in {models[0].path} only, and a chain needs it in every model",
                where=str(model.path),
                hint=f"begin the chain with {model.path}, or leave out --chain",
            )


def _check_temporary(places: Sequence[Path]) -> None:
    """Raise UsageError if a file is there already that would be removed after --exec."""
    for path in places:
        if path.exists():
            raise UsageError(
                f"{path} exists, and --exec removes each point again",
                hint="choose another -o, or keep the points with --keep",
            )


def _plan_alphas(
    segments: int, steps: int | None, at: Sequence[float], *, endpoints: bool
) -> tuple[float, ...]:
    """Return the places of all points along the chain, in order.

    `steps` = N gives k / (N + 1) for k = 1..N in each segment: 99 gives 0.01 to 0.99.
    """
    if (steps is None) == (not at):
        raise UsageError("give either --steps N or --at LIST", hint="--steps 99, or --at 0.25,0.5")
    if steps is not None and not 1 <= steps <= MOST:
        raise UsageError(f"--steps {steps}: from 1 to {MOST:,} points are possible")
    check_alphas(at)
    inside = at or [k / ((steps or 0) + 1) for k in range(1, (steps or 0) + 1)]
    alphas = list(at) if at else [s + a for s in range(segments) for a in inside]
    ends = range(segments + 1) if endpoints else ()
    return tuple(sorted({*alphas, *map(float, ends)}))


def _point_paths(alphas: Sequence[float], like: Checkpoint, request: LerpRequest) -> list[Path]:
    """Return where each point goes: alpha-0.250000.EXT in a folder, or -o itself for one point.

    Points nearer to one another than 1e-6 get names of more digits.
    """
    if (
        request.output.path
        and len(alphas) == 1
        and not (request.output.names_folder or request.output.path.is_dir())
    ):
        return [request.output.path]
    folder = request.output.path or Path("lerp")
    suffix = result_ending(like, request.output)
    for digits in DIGITS:
        names = [f"alpha-{alpha:.{digits}f}{suffix}" for alpha in alphas]
        if len(set(names)) == len(names):
            break
    return [folder / name for name in names]


@dataclass(frozen=True)
class Interpolated:
    """One point on the line between two models.

    written: None if the file was removed after `--exec`. value: what the command's last line
    of output said (a number or JSON), None without `--exec`.
    """

    alpha: float
    path: Path
    written: Written | None
    executed: bool
    value: Any
    seconds: float


@dataclass(frozen=True)
class LineDrawn:
    """The line when all its points are there. basin: that of all models, None if nothing says."""

    plan: LerpPlan
    basin: str | None
    seconds: float

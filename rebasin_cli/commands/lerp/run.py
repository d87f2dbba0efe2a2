"""Carrying out `rebasin lerp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from shutil import rmtree
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.aligned import Aligned, align_by_weights
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.commands.lerp.exec_hook import CommandFailedError, execute
from rebasin_cli.commands.lerp.plan import Interpolated, LerpPlan, LineDrawn, LinePoint
from rebasin_cli.files.part_sources import finite_model, finite_part
from rebasin_cli.files.provenance import basin_of, folded_basin, one_basin, provenance
from rebasin_cli.files.write import Result, folders_for
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_models import rotate_models
from rebasin_cli.folding.rotated_outcome import Rotated
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.merging.overlap import CommonPart, Completed, Overlap
from rebasin_cli.merging.sources import Between
from rebasin_cli.merging.whole_numbers import check_equal_where_no_mean
from rebasin_cli.options.machine import Machine
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import Failed, LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.tensors.ranges import Kept

LerpOutcome = LeftAsIs | Failed | Aligned | Folded | Rotated | Interpolated | LineDrawn


@dataclass(frozen=True)
class _Frame:
    """The models where they are interpolated.

    found: what aligning them found. moved: their weights, or another part of them, in this frame.
    facts: of their points.
    """

    found: Sequence[Aligned | Folded | Rotated]
    moved: Callable[[Sequence[TensorSource]], list[TensorSource]]
    basin: str | None
    facts: Mapping[str, object]


def run_lerp(plan: LerpPlan, progress: Progress) -> Iterator[LerpOutcome]:
    """Yield each point as soon as it is written, and evaluated if there is a command.

    What an alignment found comes first, and what was drawn last. A command that fails at one point
    is reported and the others go on.
    """
    frame = _rotated(plan, plan.rotation, progress) if plan.rotation else _permuted(plan, progress)
    yield from frame.found
    began = perf_counter()
    line = _LerpLine(plan, frame)
    _check_between(plan, line.sources)
    tasks = [PointTask(line, point) for point in plan.points]
    places = [point.target.place for point in plan.points]
    progress("interpolating", 0, len(tasks))
    with plan.workers.executor() as executor, folders_for(places):
        for count, outcome in enumerate(executor.run(tasks, progress), 1):
            progress("interpolating", count, len(tasks))
            yield outcome
    yield LineDrawn(plan, frame.basin, perf_counter() - began)


@dataclass(frozen=True)
class _LerpLine:
    """The models that all points lie between, and the other sets of weights in their files."""

    plan: LerpPlan
    frame: _Frame

    @cached_property
    def sources(self) -> Sequence[TensorSource]:
        selection = self.plan.request.selection
        return self.frame.moved([finite_model(model, selection) for model in self.plan.models])

    @cached_property
    def held(self) -> dict[int, TensorSource]:
        """The models around the last point by number, which the next one may share."""
        return {}

    def ends(self, point: LinePoint) -> Mapping[int, TensorSource]:
        """Return the models around a point by number."""
        found = _held_ends(self.plan, point, self.sources, dict(self.held))
        self.held.clear()
        self.held.update(found)
        return found

    @cached_property
    def parts(self) -> Callable[[str], Sequence[TensorSource]]:
        plan = self.plan

        @cache
        def part(key: str) -> Sequence[TensorSource]:
            selection = plan.request.selection
            own = [finite_part(model, key, plan.tensors, selection) for model in plan.models]
            _check_between(plan, own)
            return self.frame.moved(own)

        return part


@dataclass(frozen=True)
class PointTask:
    """One point of a line."""

    line: _LerpLine
    point: LinePoint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle nothing of the other points, and nothing that was opened."""
        plan = replace(self.line.plan, points=(self.point,))
        return PointTask, (_LerpLine(plan, replace(self.line.frame, found=())), self.point)

    def __call__(self, machine: Machine, progress: Progress) -> LeftAsIs | Failed | Interpolated:
        """Write the point, and evaluate it if there is a command, which may fail."""
        target = self.point.target
        if target.place.skip:
            return LeftAsIs(target.path, "exists")
        try:
            return _point(self.line, self.point)
        except CommandFailedError as error:
            return Failed(target.path, error)


def _rotated(plan: LerpPlan, problem: RotationProblem, progress: Progress) -> _Frame:
    """Return the models folded, all but the first moved next to it by orthogonal maps."""
    weights = [finite_model(model, plan.request.selection) for model in plan.models]
    rotated = rotate_models(problem, weights, progress)
    return _Frame(rotated.found, rotated.moved, folded_basin(plan.models[0]), problem.facts)


def _permuted(plan: LerpPlan, progress: Progress) -> _Frame:
    """Return the models, all but the first permuted on the fly if they are to be aligned."""
    aligned = list(_aligned(plan, progress))
    found = [one.matching.permutations for one in aligned]
    moved = partial(_models_in_order, plan.overlaps, plan.tensors, found)
    return _Frame(aligned, moved, _basin(plan), {})


def _aligned(plan: LerpPlan, progress: Progress) -> Iterator[Aligned]:
    """Yield what aligning each model to the first found, if they are to be aligned."""
    first, *others = plan.models
    if plan.choice is None:
        return
    for model, overlap in zip(others, plan.overlaps[1:], strict=True):
        yield align_by_weights(
            (first, model),
            plan.choice,
            plan.machine,
            plan.request,
            overlap=overlap,
            check=None if overlap else plan.check,
            progress=progress,
        )


def _models_in_order(
    overlaps: Sequence[Overlap],
    tensors: Sequence[BoundTensor],
    found: Sequence[Permutations],
    sources: Sequence[TensorSource],
) -> list[TensorSource]:
    pairs = zip(sources, overlaps, strict=True)
    first, *others = [CommonPart(source, overlap) for source, overlap in pairs]
    orders = found or [{} for _ in others]
    moved = (Permuted(source, tensors, p) for source, p in zip(others, orders, strict=True))
    completed = zip(moved, overlaps[1:], strict=True)
    return [first, *(Completed(source, first, overlap) for source, overlap in completed)]


def _check_between(plan: LerpPlan, sources: Sequence[TensorSource]) -> None:
    """Raise CheckpointError if a point lies between models that differ where there is no mean."""
    places = [point.segment(len(sources)) for point in plan.points if not point.target.place.skip]
    for left in {left for left, alpha in places if alpha not in (0, 1)}:
        check_equal_where_no_mean(sources[left : left + 2], (1, 1), plan.request.selection.selects)


def _basin(plan: LerpPlan) -> str | None:
    """Return the basin of the points: known if the ends were aligned here or before."""
    whole = plan.choice is not None and plan.choice.whole
    return basin_of(plan.models[0]) if whole or one_basin(plan.models) else None


def _held_ends(
    plan: LerpPlan,
    point: LinePoint,
    sources: Sequence[TensorSource],
    held: Mapping[int, TensorSource],
) -> Mapping[int, TensorSource]:
    """Return the models around a point by number; those that are kept as for the last point."""
    left, _ = point.segment(len(sources))
    near = {k: sources[k] for k in (left, left + 1)}
    if not plan.keeps(point):
        return near
    return {k: held.get(k) or Kept(source) for k, source in near.items()}


def _between(
    plan: LerpPlan, point: LinePoint, sources: Sequence[TensorSource] | Mapping[int, TensorSource]
) -> Between:
    left, alpha = point.segment(len(plan.models))
    return Between(
        (sources[left], sources[left + 1]), alpha, plan.request.mode, plan.request.selection.selects
    )


def _point(line: _LerpLine, point: LinePoint) -> Interpolated:
    began, plan = perf_counter(), line.plan
    between = _between(plan, point, line.ends(point))
    facts = provenance(
        "lerp",
        plan.models,
        basin=line.frame.basin,
        spec=plan.choice.name if plan.choice else None,
        seed=plan.request.computing.seed,
        jobs=plan.machine.jobs,
        alpha=point.alpha,
        mode=plan.request.mode,
        **line.frame.facts,
    )
    try:
        result = Result(
            between, plan.models[0], facts, lambda key: _between(plan, point, line.parts(key))
        )
        written = write_result(result, point.target, plan.request, inputs=plan.models)
        value = execute(plan.command, written.path, point.alpha) if plan.command else None
    finally:
        # also where a signal comes between the file's appearance and the command
        if not plan.keep:
            _remove(point)
    return Interpolated(
        alpha=point.alpha,
        path=written.path,
        written=written if plan.keep else None,
        executed=bool(plan.command),
        value=value,
        seconds=perf_counter() - began,
    )


def _remove(point: LinePoint) -> None:
    """Remove a point that has been evaluated."""
    place = point.target.place
    if isinstance(place.path, RemotePath):
        place.path.remove()
    elif place.path.is_dir():
        rmtree(place.path)
    else:
        place.path.unlink(missing_ok=True)

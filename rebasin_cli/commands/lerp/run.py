"""Carrying out `rebasin lerp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from shutil import rmtree
from time import perf_counter

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.alignment.functions import check_function
from rebasin_cli.alignment.match import match_models
from rebasin_cli.alignment.results import write_result
from rebasin_cli.alignment.unit_comparison import compare_units_of, detail_for
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.commands.lerp.exec_hook import CommandFailedError, execute
from rebasin_cli.commands.lerp.plan import Interpolated, LerpPlan, LinePoint
from rebasin_cli.files.part_sources import finite, finite_part
from rebasin_cli.files.provenance import basin_of, folded_basin, one_basin, provenance
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_models import Rotated, rotate_models
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.merging.overlap import CommonPart, Completed
from rebasin_cli.merging.sources import Between
from rebasin_cli.merging.whole import check_equal_where_no_mean
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import Failed, LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource, infos
from rebasin_cli.tensors.ranges import Kept

LerpOutcome = LeftAsIs | Failed | Aligned | Folded | Rotated | Interpolated


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

    What an alignment found comes first. A command that fails at one point is reported and
    the others go on.
    """
    weights = [finite(model, plan.request.selection) for model in plan.models]
    frame = (
        _rotated(plan, plan.rotation, weights, progress)
        if plan.rotation
        else _permuted(plan, progress)
    )
    yield from frame.found
    sources = frame.moved(weights)
    _check_between(plan, sources)

    @cache
    def parts(key: str) -> Sequence[TensorSource]:
        own = [
            finite_part(model, key, plan.tensors, plan.request.selection) for model in plan.models
        ]
        _check_between(plan, own)
        return frame.moved(own)

    ends: Mapping[int, TensorSource] = {}
    for count, point in enumerate(plan.points):
        progress("interpolating", count, len(plan.points))
        ends = _held_ends(plan, point, sources, ends)
        if point.target.place.skip:
            yield LeftAsIs(point.target.path, "exists")
            continue
        try:
            yield _point(plan, point, ends, frame, parts)
        except CommandFailedError as error:
            yield Failed(point.target.path, error)
    progress("interpolating", len(plan.points), len(plan.points))


def _rotated(
    plan: LerpPlan, problem: RotationProblem, weights: Sequence[TensorSource], progress: Progress
) -> _Frame:
    """Return the models folded, all but the first moved next to it by orthogonal maps."""
    rotated = rotate_models(problem, weights, progress)
    return _Frame(rotated.found, rotated.moved, folded_basin(plan.models[0]), problem.facts)


def _permuted(plan: LerpPlan, progress: Progress) -> _Frame:
    """Return the models, all but the first permuted on the fly if they are to be aligned."""
    aligned = list(_aligned(plan, progress))
    return _Frame(aligned, partial(_moved, plan, aligned), _basin(plan), {})


def _aligned(plan: LerpPlan, progress: Progress) -> Iterator[Aligned]:
    """Yield what aligning each model to the first found, if they are to be aligned."""
    first, *others = plan.models
    if plan.choice is None:
        return
    for model, overlap in zip(others, plan.overlaps[1:], strict=True):
        began = perf_counter()
        found = match_models(
            first,
            model,
            plan.choice,
            plan.machine,
            plan.request.search,
            overlap=overlap,
            progress=progress,
            detail=detail_for(plan.request.display),
        )
        pair = first, model
        moved = Permuted(model, plan.choice.bound.tensors, found.permutations)
        check = None if overlap else plan.check
        function = check_function(check, model, moved, where=str(model.path))
        comparison = compare_units_of(
            pair,
            plan.choice,
            plan.machine,
            plan.request.display,
            found,
            overlap=overlap,
        )
        yield Aligned(
            model=model.path,
            reference=first.path,
            spec=plan.choice.name,
            matching=found,
            untouched=len(plan.choice.bound.untouched),
            written=None,
            permutation=None,
            seconds=perf_counter() - began,
            comparison=comparison,
            function=function,
        )


def _moved(
    plan: LerpPlan, aligned: Sequence[Aligned], sources: Sequence[TensorSource]
) -> list[TensorSource]:
    pairs = zip(sources, plan.overlaps, strict=True)
    first, *others = [CommonPart(source, overlap) for source, overlap in pairs]
    tensors = plan.choice.bound.tensors if plan.choice else ()
    found = [one.matching.permutations for one in aligned] or [{} for _ in others]
    moved = (Permuted(source, tensors, p) for source, p in zip(others, found, strict=True))
    completed = zip(moved, plan.overlaps[1:], strict=True)
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
    """Return the models around a point by number: in memory, if there is room, as for the last."""
    left, _ = point.segment(len(sources))
    if left + 1 in held and left in held:
        return held
    near = {k: sources[k] for k in (left, left + 1)}
    size = sum(info.nbytes for source in near.values() for info in infos(source).values())
    if size > plan.machine.max_memory:
        return near
    return {k: held.get(k) or Kept(source) for k, source in near.items()}


def _between(
    plan: LerpPlan, point: LinePoint, sources: Sequence[TensorSource] | Mapping[int, TensorSource]
) -> Between:
    left, alpha = point.segment(len(plan.models))
    return Between(
        (sources[left], sources[left + 1]), alpha, plan.mode, plan.request.selection.selects
    )


def _point(
    plan: LerpPlan,
    point: LinePoint,
    ends: Mapping[int, TensorSource],
    frame: _Frame,
    parts: Callable[[str], Sequence[TensorSource]],
) -> Interpolated:
    began = perf_counter()
    between = _between(plan, point, ends)
    facts = provenance(
        "lerp",
        plan.models,
        basin=frame.basin,
        spec=plan.choice.name if plan.choice else None,
        seed=plan.request.computing.seed,
        alpha=point.alpha,
        mode=plan.mode,
        **frame.facts,
    )
    try:
        result = Result(
            between, plan.models[0], facts, lambda key: _between(plan, point, parts(key))
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
    """Remove a point that has been evaluated, and the folder made for it once it is empty."""
    place = point.target.place
    if isinstance(place.path, RemotePath):
        place.path.remove()
    elif place.path.is_dir():
        rmtree(place.path)
    else:
        place.path.unlink(missing_ok=True)
    if place.folder is not None and place.folder.is_dir() and not any(place.folder.iterdir()):
        place.folder.rmdir()

"""Carrying out `rebasin lerp`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shutil import rmtree
from time import perf_counter

from rebasin_cli.errors import RebasinError
from rebasin_cli.merging import Between
from rebasin_cli.permutation import Permuted
from rebasin_cli.plan.lerp import LerpPlan, Point
from rebasin_cli.plan.outcome import Failed, Interpolated, Kept
from rebasin_cli.progress import Progress
from rebasin_cli.run.align import match_models
from rebasin_cli.run.execute import execute
from rebasin_cli.run.output import write_model
from rebasin_cli.run.provenance import basin_of, one_basin, provenance
from rebasin_cli.tensors import TensorSource


def run_lerp(plan: LerpPlan, progress: Progress) -> Iterator[Kept | Failed | Interpolated]:
    """Yield each point as soon as it is written, and evaluated if there is a command.

    A command that fails at one point is reported and the others go on.
    """
    sources = _aligned(plan, progress)
    basin = _basin(plan)
    for count, point in enumerate(plan.points):
        progress("interpolating", count, len(plan.points))
        if point.target.place.skip:
            yield Kept("lerp", point.target.path, "exists")
            continue
        try:
            yield _point(plan, point, sources, basin)
        except RebasinError as error:
            if not plan.command:
                raise
            yield Failed("lerp", point.target.path, error)
    progress("interpolating", len(plan.points), len(plan.points))


def _aligned(plan: LerpPlan, progress: Progress) -> Sequence[TensorSource]:
    """Return the models, all but the first permuted on the fly if they are to be aligned."""
    if plan.choice is None:
        return plan.models
    first, *others = plan.models
    tensors = plan.choice.bound.tensors
    sources: list[TensorSource] = [first]
    for model in others:
        found = match_models(
            first, model, plan.choice, plan.machine, plan.options, progress=progress
        )
        sources.append(Permuted(model, tensors, found.permutations))
    return sources


def _basin(plan: LerpPlan) -> str | None:
    """Return the basin of the points: known if the ends were aligned here or before."""
    if plan.choice is not None or one_basin(plan.models):
        return basin_of(plan.models[0])
    return None


def _point(
    plan: LerpPlan, point: Point, sources: Sequence[TensorSource], basin: str | None
) -> Interpolated:
    began = perf_counter()
    left, alpha = point.segment(len(sources))
    ends = (sources[left], sources[left + 1])
    between = Between(ends, alpha, plan.mode, plan.options.selects)
    facts = provenance(
        "lerp",
        plan.models,
        basin=basin,
        spec=plan.choice.name if plan.choice else None,
        seed=plan.options.seed,
        alpha=point.alpha,
        mode=plan.mode,
    )
    written = write_model(between, plan.models[0], point.target, plan.options, facts)
    try:
        value = execute(plan.command, written.path, point.alpha) if plan.command else None
    finally:
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


def _remove(point: Point) -> None:
    """Remove a point that has been evaluated, and the folder made for it once it is empty."""
    place = point.target.place
    if place.path.is_dir():
        rmtree(place.path)
    else:
        place.path.unlink()
    if place.folder is not None and not any(place.folder.iterdir()):
        place.folder.rmdir()

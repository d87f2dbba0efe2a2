"""Carrying out `rebasin lerp`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shutil import rmtree
from time import perf_counter

from rebasin_cli.merging import Between
from rebasin_cli.merging.overlap import CommonPart, Completed
from rebasin_cli.permutation import Permuted
from rebasin_cli.plan.lerp import LerpPlan, Point
from rebasin_cli.plan.outcome import Aligned, Failed, Interpolated, Kept
from rebasin_cli.progress import Progress
from rebasin_cli.run.align import match_models
from rebasin_cli.run.card import carded
from rebasin_cli.run.diagnose import diagnosed
from rebasin_cli.run.execute import CommandFailedError, execute
from rebasin_cli.run.function import check_function
from rebasin_cli.run.merge import finite
from rebasin_cli.run.output import write_model
from rebasin_cli.run.provenance import basin_of, one_basin, provenance
from rebasin_cli.tensors import TensorSource

LerpOutcome = Kept | Failed | Aligned | Interpolated


def run_lerp(plan: LerpPlan, progress: Progress) -> Iterator[LerpOutcome]:
    """Yield each point as soon as it is written, and evaluated if there is a command.

    What an alignment found comes first. A command that fails at one point is reported and
    the others go on.
    """
    aligned = list(_aligned(plan, progress))
    yield from aligned
    sources = _sources(plan, aligned)
    basin = _basin(plan)
    for count, point in enumerate(plan.points):
        progress("interpolating", count, len(plan.points))
        if point.target.place.skip:
            yield Kept("lerp", point.target.path, "exists")
            continue
        try:
            yield _point(plan, point, sources, basin)
        except CommandFailedError as error:
            yield Failed("lerp", point.target.path, error)
    progress("interpolating", len(plan.points), len(plan.points))


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
            plan.options,
            overlap=overlap,
            progress=progress,
        )
        pair = first, model
        moved = Permuted(model, plan.choice.bound.tensors, found.permutations)
        check = None if overlap else plan.check
        function = check_function(check, model, moved, where=str(model.path))
        diagnosis = diagnosed(
            pair, plan.choice, plan.machine, plan.options, found.permutations, overlap=overlap
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
            diagnosis=diagnosis,
            function=function,
        )


def _sources(plan: LerpPlan, aligned: Sequence[Aligned]) -> list[TensorSource]:
    """Return the models, all but the first permuted on the fly if they were aligned."""
    first, *others = [
        CommonPart(finite(model, plan.options), overlap)
        for model, overlap in zip(plan.models, plan.overlaps, strict=True)
    ]
    tensors = plan.choice.bound.tensors if plan.choice else ()
    found = [one.matching.permutations for one in aligned] or [{} for _ in others]
    moved = (Permuted(source, tensors, p) for source, p in zip(others, found, strict=True))
    pairs = zip(moved, plan.overlaps[1:], strict=True)
    return [first, *(Completed(source, first, overlap) for source, overlap in pairs)]


def _basin(plan: LerpPlan) -> str | None:
    """Return the basin of the points: known if the ends were aligned here or before."""
    whole = plan.choice is not None and plan.choice.whole
    return basin_of(plan.models[0]) if whole or one_basin(plan.models) else None


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
    try:
        target = carded(point.target, plan.models, options=plan.options, facts=facts)
        written = write_model(between, plan.models[0], target, plan.options, facts)
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


def _remove(point: Point) -> None:
    """Remove a point that has been evaluated, and the folder made for it once it is empty."""
    place = point.target.place
    if place.path.is_dir():
        rmtree(place.path)
    else:
        place.path.unlink(missing_ok=True)
    if place.folder is not None and place.folder.is_dir() and not any(place.folder.iterdir()):
        place.folder.rmdir()

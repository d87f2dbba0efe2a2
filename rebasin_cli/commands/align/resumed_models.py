"""Aligned models, but for those that an earlier run has finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan
from rebasin_cli.commands.align.orthogonal.run import run_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan
from rebasin_cli.commands.align.report import PRESENTERS
from rebasin_cli.commands.align.run import run_align
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.targets import Target
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_outcome import Rotated
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.progress import Progress
from rebasin_cli.resuming.circumstances import circumstances
from rebasin_cli.resuming.finished import read_finished
from rebasin_cli.resuming.resumed_run import Resumed
from rebasin_cli.spec.binding.bound import BoundSpec


def run_permuted(plan: AlignPlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_align` does, with --resume what is finished instead of making it again."""
    models = [plan.reference, *(item.model for item in plan.items)]
    results = dict(_files(item.target, item.permutation) for item in plan.items)
    resumed = _resumed(plan.request, models, plan.choice.bound, results, plan.machine.jobs)
    items = tuple(replace(item, target=resumed.left(item.target)) for item in plan.items)
    outcomes = run_align(replace(plan, items=items), progress)
    yield from resumed.noted(outcomes, _place, PRESENTERS)


def run_rotated(plan: OrthogonalPlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_orthogonal` does, with --resume what is finished instead."""
    problem, targets = plan.problem, plan.targets
    places = (None, *plan.places)
    results = dict(map(_files, targets, places))
    bound, jobs = problem.choice.bound, problem.machine.jobs
    resumed = _resumed(plan.request, problem.models, bound, results, jobs)
    outcomes = run_orthogonal(replace(plan, targets=tuple(map(resumed.left, targets))), progress)
    yield from resumed.noted(outcomes, _place, ROTATING)


def _resumed(
    request: AlignRequest,
    models: Sequence[Checkpoint],
    bound: BoundSpec,
    results: Mapping[Path, Sequence[Path]],
    jobs: int,
) -> Resumed:
    resumed = Resumed(read_finished(request.finished, "align"), results)
    resumed.begin(
        partial(circumstances, models, request, bound, jobs=jobs), anew=request.output.force
    )
    return resumed


def _files(target: Target, place: OutputPlace | None) -> tuple[Path, Sequence[Path]]:
    """Return where a model goes, and all files that come with it."""
    return target.path, [*target.files, *([place.path] if place else [])]


def _place(outcome: object) -> Path | None:
    if isinstance(outcome, Aligned | Folded | Rotated) and outcome.written:
        return outcome.written.path
    return None

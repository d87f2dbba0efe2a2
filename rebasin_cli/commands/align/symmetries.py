"""The classes of maps that models may be aligned by, and who plans, does and reports it.

With --resume what an earlier run has finished is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.auto import report as auto_report
from rebasin_cli.commands.align.auto.plan import plan_auto
from rebasin_cli.commands.align.auto.run import run_auto
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan, plan_orthogonal
from rebasin_cli.commands.align.orthogonal.run import run_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan, plan_align
from rebasin_cli.commands.align.report import PRESENTERS
from rebasin_cli.commands.align.run import run_align
from rebasin_cli.commands.align.select import report as select_report
from rebasin_cli.commands.align.select.plan import plan_select
from rebasin_cli.commands.align.select.run import run_select
from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.execution.workers import LOCAL
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.targets import Target
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_outcome import Rotated
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.folding.settled_heads import check_tie
from rebasin_cli.presentation.presenter import Presenters
from rebasin_cli.progress import Progress
from rebasin_cli.resuming.circumstances import circumstances
from rebasin_cli.resuming.finished import read_finished
from rebasin_cli.resuming.resumed_run import Resumed
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION


def run_permuted(plan: AlignPlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_align` does, with --resume what is finished instead of making it again."""
    models = [plan.reference, *(item.model for item in plan.items)]
    results = dict(_files(item.target, item.permutation) for item in plan.items)
    resumed = _begin_resumed(plan.request, models, plan.choice.bound, results, plan.machine.jobs)
    items = tuple(replace(item, target=resumed.left(item.target)) for item in plan.items)
    outcomes = run_align(replace(plan, items=items), progress)
    yield from resumed.noted(outcomes, _place, PRESENTERS)


def run_rotated(plan: OrthogonalPlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_orthogonal` does, with --resume what is finished instead."""
    problem, targets = plan.problem, plan.targets
    places = (None, *plan.places)
    results = dict(map(_files, targets, places))
    bound, jobs = problem.choice.bound, problem.machine.jobs
    resumed = _begin_resumed(plan.request, problem.models, bound, results, jobs)
    outcomes = run_orthogonal(replace(plan, targets=tuple(map(resumed.left, targets))), progress)
    yield from resumed.noted(outcomes, _place, ROTATING)


def _begin_resumed(
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


@dataclass(frozen=True)
class AlignmentKind:
    """How models are aligned by maps of one kind: parts of a `Work`."""

    plan: Callable[[AlignRequest], Any]
    run: Callable[[Any, Progress], Iterator[Any]]
    presenters: Presenters


SYMMETRIES: Mapping[str, AlignmentKind] = {
    PERMUTATION: AlignmentKind(plan_align, run_permuted, PRESENTERS),
    "orthogonal": AlignmentKind(plan_orthogonal, run_rotated, ROTATING),
    "auto": AlignmentKind(plan_auto, run_auto, auto_report.PRESENTERS),
}


def kind_of(request: AlignRequest) -> AlignmentKind:
    """Return how models are aligned: by the maps of which symmetry, or in the best of many ways.

    Raises UsageError for an unknown symmetry, and for a way with tied heads where they stay tied:
    what is compared with permutations has the same tensors. Only permutations are spread.
    """
    symmetry, select = request.symmetry, request.select is not None
    kind = look_up("symmetry", symmetry, SYMMETRIES)
    if request.executor != LOCAL and (select or symmetry != PERMUTATION):
        raise UsageError(
            f"--executor {request.executor} aligns by permutations that weights tell",
            hint="leave out --select" if select else "--symmetry permutation",
        )
    check_tie(request.tie, folds=symmetry == ORTHOGONAL and not select)
    return AlignmentKind(plan_select, run_select, select_report.PRESENTERS) if select else kind

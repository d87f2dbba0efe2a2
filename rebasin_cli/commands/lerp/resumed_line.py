"""The points of a line, but for those that an earlier run has finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rebasin_cli.commands.lerp.plan import Interpolated, LerpPlan
from rebasin_cli.commands.lerp.report import PRESENTERS
from rebasin_cli.commands.lerp.run import run_lerp
from rebasin_cli.progress import Progress
from rebasin_cli.resuming.circumstances import circumstances
from rebasin_cli.resuming.finished import read_finished
from rebasin_cli.resuming.resumed_run import Resumed


def run_resumed(plan: LerpPlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_lerp` does, with --resume what is finished instead of making it again."""
    results = {p.target.path: p.target.files if plan.keep else () for p in plan.points}
    resumed = Resumed(read_finished(plan.request.resume, "lerp"), results)
    bound = plan.choice.bound if plan.choice else None
    resumed.begin(
        partial(circumstances, plan.models, plan.request, bound, jobs=plan.machine.jobs),
        anew=plan.request.output.force,
    )
    if resumed.reused.keys() == results.keys():
        yield from resumed.reused.values()
        return
    points = tuple(replace(point, target=resumed.left(point.target)) for point in plan.points)
    outcomes = run_lerp(replace(plan, points=points), progress)
    yield from resumed.noted(outcomes, _place, PRESENTERS)


def _place(outcome: object) -> Path | None:
    return outcome.path if isinstance(outcome, Interpolated) else None

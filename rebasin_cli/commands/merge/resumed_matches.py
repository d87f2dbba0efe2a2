"""A merge that takes from an earlier run the matches that it has made, or the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.commands.merge.merged import Merged
from rebasin_cli.commands.merge.plan import MergePlan
from rebasin_cli.commands.merge.report import PRESENTERS
from rebasin_cli.commands.merge.run import run_merge
from rebasin_cli.errors import PermutationError
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.progress import Progress
from rebasin_cli.resuming.circumstances import circumstances
from rebasin_cli.resuming.finished import read_finished
from rebasin_cli.resuming.resumed_run import Resumed, StepForm
from rebasin_cli.spec.binding.bound import BoundGroup


def run_resumed(plan: MergePlan, progress: Progress) -> Iterator[Any]:
    """Yield what `run_merge` does; with --resume no match is made that an earlier run has made."""
    results = {plan.target.path: plan.target.files}
    resumed = Resumed(read_finished(plan.request.resume, "merge"), results)
    bound = plan.choice.bound if plan.choice else None
    resumed.begin(
        partial(circumstances, plan.models, plan.request, bound, jobs=plan.machine.jobs),
        anew=plan.request.output.force,
    )
    if resumed.reused:
        yield from resumed.reused.values()
        return
    form = StepForm(_listed, partial(_permutations, groups=bound.groups if bound else {}))
    outcomes = run_merge(plan, progress, recall=lambda match: resumed.step(match, form))
    yield from resumed.noted(outcomes, _place, PRESENTERS)


def _listed(permutations: Permutations) -> dict[str, Any]:
    """Return permutations as JSON values: by group, its parents and where each unit comes from."""
    return {name: [list(p.parents), p.index.tolist()] for name, p in permutations.items()}


def _permutations(listed: Mapping[str, Any], *, groups: Mapping[str, BoundGroup]) -> Permutations:
    """Return what `_listed` was given. Raises PermutationError if it is not of these groups."""
    try:
        found = {
            name: Permutation(torch.tensor(index, dtype=torch.int64), tuple(parents))
            for name, (parents, index) in listed.items()
        }
        fits = all(tuple(p.index.shape) == tuple(groups[n].shape) for n, p in found.items())
    except (ValueError, TypeError, KeyError, RuntimeError):
        fits = False
    if not fits or found.keys() != groups.keys():
        raise PermutationError(
            "the list of --resume has a match of other models",
            hint="name a file that is not there yet with --resume",
        )
    return found


def _place(outcome: object) -> Path | None:
    return outcome.written.path if isinstance(outcome, Merged) else None

"""Carrying out `rebasin verify --symmetry orthogonal`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.commands.verify.orthogonal.plan import VerifiedRotation, VerifyRotationPlan
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.folding.rotated_outcome import count_classes
from rebasin_cli.folding.rotated_pair import rotate_pair, rounding_of, share_apart
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource, dtype_name


def run_verify_rotation(plan: VerifyRotationPlan, progress: Progress) -> Iterator[VerifiedRotation]:
    """Yield whether B is A with its units rotated: every tensor is compared, both being folded.

    Each by itself, since small ones vanish in the sum of all.
    """
    problem, selection = plan.problem, plan.request.selection
    a, b = problem.models
    pair = rotate_pair(problem, selection, progress)
    found = pair.found
    names = _compared_names(plan)
    progress("comparing", 0, 0)
    apart = {n: share_apart(pair.reference.load(n), pair.moved.load(n)) for n in names}
    allowed = {name: rounding_of(a.info(name), b.info(name)) for name in names}
    yield VerifiedRotation(
        a=a.path,
        b=b.path,
        spec=problem.choice.name,
        classes=count_classes(problem.folding.classes),
        cosine=found.cosine,
        sweeps=found.sweeps,
        different={name: share for name, share in apart.items() if share > allowed[name]},
        max_difference=max(apart.values(), default=0.0),
        rounding=max(allowed.values(), default=0.0),
        dtype=_coarsest(a, b, names),
        saved=save_maps(plan.save, found.maps, problem.folding, (a, b), selection.sizes),
        tied=pair.tied,
        function=_compared_functions(plan),
    )


def _compared_names(plan: VerifyRotationPlan) -> list[str]:
    a, b = plan.problem.models
    theirs = set(b.names())
    return [n for n in a.names() if n in theirs and plan.request.selection.selects(n)]


def _coarsest(a: TensorSource, b: TensorSource, names: list[str]) -> str:
    """Return the name of the floating dtype with the fewest digits."""
    dtypes = {source.info(n).dtype for source in (a, b) for n in names if source.info(n).floating}
    worst = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    return dtype_name(worst)


def _compared_functions(plan: VerifyRotationPlan) -> FunctionDifference | None:
    """Return how far apart A and B are as functions, if the user named a model to run."""
    check = plan.problem.check
    return compare_functions(check, *plan.problem.models) if check else None

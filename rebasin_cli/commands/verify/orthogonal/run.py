"""Carrying out `rebasin verify --symmetry orthogonal`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.verify.orthogonal.plan import VerifiedRotation, VerifyRotationPlan
from rebasin_cli.folding.folded_models import check_tied
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.folding.rotated_models import count_classes
from rebasin_cli.merging.sources import Finite
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorInfo, TensorSource, dtype_name
from rebasin_cli.tensors.compare import SAME_IN_FLOAT64, same_bits, wide

# Share of the objective that a sweep has to gain: nothing in float64, and maps are right to 1e-8.
AT_REST = 1e-15


def run_verify_rotation(plan: VerifyRotationPlan, progress: Progress) -> Iterator[VerifiedRotation]:
    """Yield whether B is A with its units rotated: every tensor is compared, both being folded.

    Each by itself, since small ones vanish in the sum of all.
    """
    problem, folding = plan.problem, plan.problem.folding
    a, b = problem.models
    first, second = (_folded(plan, model) for model in (a, b))
    tied = [e for e in (check_tied(first, a), check_tied(second, b)) if e is not None]
    found = match_maps(
        first,
        second,
        folding.moving,
        folding.classes,
        rise=AT_REST,
        max_memory=problem.machine.max_memory,
        device=problem.machine.exact_device,
        progress=progress,
    )
    moved = Carried(second, folding.moving.tensors, found.maps)
    names = _compared_names(plan)
    progress("comparing", 0, 0)
    apart = {name: _apart(first.load(name), moved.load(name)) for name in names}
    allowed = {name: _rounding(a.info(name), b.info(name)) for name in names}
    yield VerifiedRotation(
        a=a.path,
        b=b.path,
        spec=problem.choice.name,
        classes=count_classes(folding.classes),
        cosine=found.cosine,
        sweeps=found.sweeps,
        different={name: share for name, share in apart.items() if share > allowed[name]},
        max_difference=max(apart.values(), default=0.0),
        rounding=max(allowed.values(), default=0.0),
        dtype=_coarsest(a, b, names),
        saved=save_maps(plan.save, found.maps, folding, (a, b), plan.request.selection.sizes),
        tied=max(tied, default=None),
        function=_compared_functions(plan),
    )


def _folded(plan: VerifyRotationPlan, model: Checkpoint) -> FoldedNorms:
    selects = plan.request.selection.selects
    finite = Finite(model, str(model.path), "repair the checkpoint", selects)
    return FoldedNorms(finite, plan.problem.folding)


def _compared_names(plan: VerifyRotationPlan) -> list[str]:
    a, b = plan.problem.models
    theirs = set(b.names())
    return [n for n in a.names() if n in theirs and plan.request.selection.selects(n)]


def _apart(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |a|; infinite where there is no scale, or whole numbers differ."""
    if same_bits(a, b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return math.inf
    gap, scale = float((wide(a) - wide(b)).norm()), float(wide(a).norm())
    return 0.0 if gap == 0 else gap / scale if scale > 0 else math.inf


def _rounding(a: TensorInfo, b: TensorInfo) -> float:
    """Return the share of a tensor's length that its dtypes account for; 0 of whole numbers.

    Rounding moves each entry by eps / 2 of it at most, so a tensor by as much of its length, which
    no map changes. Twice that is allowed: what is not folded yet was rounded in two factors.
    """
    eps = [torch.finfo(info.dtype).eps for info in (a, b) if info.floating]
    return max(SAME_IN_FLOAT64, *eps) if eps else 0.0


def _coarsest(a: TensorSource, b: TensorSource, names: list[str]) -> str:
    """Return the name of the floating dtype with the fewest digits."""
    dtypes = {source.info(n).dtype for source in (a, b) for n in names if source.info(n).floating}
    worst = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    return dtype_name(worst)


def _compared_functions(plan: VerifyRotationPlan) -> FunctionDifference | None:
    """Return how far apart A and B are as functions, if the user named a model to run."""
    check = plan.problem.check
    return compare_functions(check, *plan.problem.models) if check else None

"""Two models folded, the second moved next to the first, to be compared tensor by tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.folding.folded_models import check_tied
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.merging.sources import Finite
from rebasin_cli.options.selection import Selection
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorInfo, TensorSource
from rebasin_cli.tensors.compare import SAME_IN_FLOAT64, in_widest, same_bits
from rebasin_cli.tensors.numbers import is_floating

# Share of the objective that a sweep has to gain: nothing in float64, and maps are right to 1e-8.
AT_REST = 1e-15


@dataclass(frozen=True)
class RotatedPair:
    """A folded reference, and another model where its maps bring it; both compute in float64.

    tied: see `Folded`; of the worse of the two.
    """

    reference: TensorSource
    moved: TensorSource
    found: MapMatching
    tied: float | None


def rotate_pair(problem: RotationProblem, selection: Selection, progress: Progress) -> RotatedPair:
    """Return both models of a problem in one frame, by maps that are as exact as they can be."""
    folding, (a, b) = problem.folding, problem.models
    first, second = (_fold_checked(problem, model, selection) for model in (a, b))
    tied = [e for e in (check_tied(first, a), check_tied(second, b)) if e is not None]
    found = match_maps(
        first,
        second,
        folding.moving,
        folding.classes,
        settings=replace(problem.settings, rise=AT_REST),
        progress=progress,
    )
    moved = Carried(second, folding.moving.tensors, found.maps)
    return RotatedPair(first, moved, found, max(tied, default=None))


def _fold_checked(problem: RotationProblem, model: Checkpoint, selection: Selection) -> FoldedNorms:
    finite = Finite(model, str(model.path), "repair the checkpoint", selection.selects)
    return FoldedNorms(finite, problem.folding)


def share_apart(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |a|; infinite where there is no scale, or whole numbers differ."""
    if same_bits(a, b):
        return 0.0
    if not is_floating(a.dtype):
        return math.inf
    gap, scale = float((in_widest(a) - in_widest(b)).norm()), float(in_widest(a).norm())
    return 0.0 if gap == 0 else gap / scale if scale > 0 else math.inf


def rounding_of(a: TensorInfo, b: TensorInfo) -> float:
    """Return the share of a tensor's length that its dtypes account for; 0 of whole numbers.

    Rounding moves each entry by eps / 2 of it at most, so a tensor by as much of its length, which
    no map changes. Twice that is allowed: what is not folded yet was rounded in two factors.
    """
    eps = [torch.finfo(info.dtype).eps for info in (a, b) if info.floating]
    return max(SAME_IN_FLOAT64, *eps) if eps else 0.0

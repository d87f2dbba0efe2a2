"""The plan of aligning by either class of maps: both are planned, and one will be carried out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan, plan_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan, plan_align
from rebasin_cli.errors import RebasinWarning, UsageError
from rebasin_cli.folding.rotation_problem import METHODS, ORTHOGONAL, HeldModels
from rebasin_cli.folding.settled_heads import KEEP
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.data import Data
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.fold_plan import can_rotate


@dataclass(frozen=True)
class AutoPlan:
    """The same models planned by both classes of maps; both have the same targets.

    code: the model and the data that midpoints are judged by; None: weights alone decide.
    """

    permuting: AlignPlan
    rotating: OrthogonalPlan
    code: UserCode | None = None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "align",
            "symmetry": "auto",
            PERMUTATION: self.permuting.describe(),
            ORTHOGONAL: self.rotating.describe(),
        }


def plan_auto(request: AlignRequest) -> AlignPlan | AutoPlan:
    """Return what either class will do, or permutations where nothing else is allowed."""
    if request.learning.resume is not None:
        raise UsageError(
            "--symmetry auto decides by all models at once, and --resume lists one by one",
            hint="--symmetry permutation or orthogonal, whichever is wanted",
        )
    by_weights = _by_weights(request)
    permuting = plan_align(by_weights, rotated=True)
    choice = permuting.choice
    if not can_rotate(choice.bound) or choice.held:
        return permuting if by_weights == request else plan_align(request)
    if request.search.method not in METHODS:
        raise UsageError(
            f"--symmetry auto compares what weights say, not method {request.search.method!r}",
            hint="--symmetry permutation or orthogonal, whichever is wanted",
        )
    with warnings.catch_warnings():  # what is odd about the models was said for permutations
        warnings.simplefilter("ignore", RebasinWarning)
        asked = replace(request, data=Data(), tie=KEEP)
        rotating = plan_orthogonal(asked, held=HeldModels("--symmetry auto"))
    items = tuple(replace(item, check=rotating.problem.check) for item in permuting.items)
    return AutoPlan(replace(permuting, items=items), rotating, _code(permuting, request))


def _by_weights(request: AlignRequest) -> AlignRequest:
    """Return the request for matching by weights: without --data; --spec goes before --model."""
    if request.search.method not in METHODS:
        return request
    return replace(request, data=Data(), tracing=request.tracing.unless(request.selection.spec))


def _code(permuting: AlignPlan, request: AlignRequest) -> UserCode | None:
    if request.data.data is None:
        return None
    reference, selection = permuting.reference, request.selection
    return plan_user_code(reference, selection, request.tracing, request.data, fed=True)

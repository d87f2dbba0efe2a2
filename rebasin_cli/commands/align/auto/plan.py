"""The plan of aligning by either class of maps: both are planned, and one will be carried out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan, plan_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan, plan_align
from rebasin_cli.commands.align.request import AlignRequest
from rebasin_cli.errors import RebasinWarning, UsageError
from rebasin_cli.symmetry.norm_folding import can_rotate

METHODS = ("auto", "weights")


@dataclass(frozen=True)
class AutoPlan:
    """The same models planned by both classes of maps; both have the same targets."""

    permuting: AlignPlan
    rotating: OrthogonalPlan

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "align",
            "symmetry": "auto",
            "permutation": self.permuting.describe(),
            "orthogonal": self.rotating.describe(),
        }


def plan_auto(request: AlignRequest) -> AlignPlan | AutoPlan:
    """Return what either class will do, or permutations where nothing else is allowed."""
    permuting = plan_align(request)
    choice = permuting.choice
    if not can_rotate(choice.bound) or choice.held:
        return permuting
    if request.search.method not in METHODS:
        raise UsageError(
            f"--symmetry auto compares what weights say, not method {request.search.method!r}",
            hint="--symmetry permutation or orthogonal, whichever is wanted",
        )
    with warnings.catch_warnings():  # what is odd about the models was said for permutations
        warnings.simplefilter("ignore", RebasinWarning)
        return AutoPlan(permuting, plan_orthogonal(request))

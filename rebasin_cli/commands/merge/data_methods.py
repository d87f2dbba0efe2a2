"""What the methods of `rebasin merge` that feed data to the parents plan alike."""

from __future__ import annotations

from dataclasses import replace

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.renormalization.plan import CorrectionPlan, plan_correction


def permuting(request: MergeRequest) -> MergeRequest:
    """Return how the models are first aligned by permutations."""
    return replace(
        request,
        tracing=request.tracing.unless(request.selection.spec),
        search=replace(request.search, method="auto"),
        renormalization=None,
    )


def code_of(request: MergeRequest, first: Checkpoint) -> UserCode:
    """Return the model and the data that a request names, for a checkpoint."""
    whole = request.selection.all_tensors
    return plan_user_code(first, whole, request.tracing, request.data, fed=True)


def check_reset(request: MergeRequest) -> None:
    """Raise UsageError for corrections by what the units of the parents do."""
    asked = request.renormalization
    if asked is not None and asked.method != "reset":
        raise UsageError(
            "the units of the result are those of no parent: only their BatchNorm can be corrected",
            hint="--renormalize reset",
        )


def plan_reset(first: Checkpoint, request: MergeRequest) -> CorrectionPlan | None:
    """Return how the BatchNorm of the result is corrected, if that is asked for."""
    asked = request.renormalization
    if asked is None:
        return None
    return plan_correction(first, request.selection, request.tracing, request.data, asked)

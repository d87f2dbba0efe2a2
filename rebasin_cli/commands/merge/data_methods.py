"""What the methods of `rebasin merge` that feed data to the parents plan alike."""

from __future__ import annotations

from dataclasses import replace

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.network.network import UserCode, plan_user_code


def as_permuting(request: MergeRequest) -> MergeRequest:
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

"""What goes with the plain mean of models alone."""

from __future__ import annotations

from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.errors import UsageError


def check_averages(request: MergeRequest, way: str) -> None:
    """Raise UsageError where a way to merge would be asked for more than the mean of models."""
    if not request.averages:
        raise UsageError(
            f"{way} goes with the mean of the models alone",
            hint="leave out --combine and its options, and weights for globs",
        )


def check_own_units(request: MergeRequest) -> None:
    """Raise UsageError for what a method that makes units of its own cannot be asked for."""
    check_averages(request, f"--method {request.search.method}")
    asked = request.renormalization
    if asked is not None and asked.method != "reset":
        raise UsageError(
            "the units of the result are those of no parent: only their BatchNorm can be corrected",
            hint="--renormalize reset",
        )

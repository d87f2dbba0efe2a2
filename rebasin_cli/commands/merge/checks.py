"""What a merge cannot be asked for."""

from __future__ import annotations

from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.errors import UsageError, look_up, suggest
from rebasin_cli.matching.many.factorisation import SYNC_METHODS
from rebasin_cli.matching.many.strategies import STRATEGIES


def check_request(request: MergeRequest) -> None:
    """Raise UsageError for models, a strategy and options that do not go together."""
    if len(request.paths) < 2:
        raise UsageError("merge needs at least two models", hint="rebasin merge MODEL MODEL...")
    strategy, renormalize = request.strategy, request.renormalization
    if strategy is not None and strategy not in STRATEGIES:
        hint = suggest(strategy, STRATEGIES) or ", ".join(STRATEGIES)
        raise UsageError(f"no strategy is called {strategy!r}", hint=hint)
    if request.sync_method is not None:
        look_up("sync method", request.sync_method, SYNC_METHODS)
        if strategy not in ("sync", "sync-sweeps"):
            raise UsageError("--sync-method reconciles pairs", hint="add --strategy sync")
    if renormalize is not None and renormalize.method != "reset" and not request.averages:
        raise UsageError(
            f"{renormalize.method} goes by the mean of the models, and this is none",
            hint="--renormalize reset",
        )
    if request.combining.base is not None and request.reference is not None:
        raise UsageError("--ref does not go with --base", hint="the base is the reference")


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

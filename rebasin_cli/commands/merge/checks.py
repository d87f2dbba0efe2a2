"""What a merge cannot be asked for: options that contradict one another, or are of no use.

In the order of use: `check_way` before stdin is read, `check_request` by the plan, the rest by the
plans of the ways to merge that they are for.
"""

from __future__ import annotations

from rebasin_cli.alignment.problem import tell_idle, warn_idle
from rebasin_cli.commands.merge.command import LEAST_SQUARES, LINEAR, RUNNING, MergeRequest
from rebasin_cli.errors import UsageError, look_up, suggest
from rebasin_cli.folding.rotation_problem import rotates
from rebasin_cli.matching.many.factorisation import SYNC_METHODS
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.options.data import SAMPLED
from rebasin_cli.renormalization.plan import CALIBRATE


def check_way(request: MergeRequest) -> None:
    """Raise UsageError for options that contradict the way to merge; warn of those of no use."""
    rotated = rotates(request.symmetry, tie=request.tie)
    if request.preserve_first is not None:
        _check_preserving(request)
    _check_saving(request, rotated=rotated)
    if not 1 <= request.width <= 2:
        raise UsageError(f"--width {request.width:g}: from 1 to 2 widths of one model")
    if request.width != 1 and request.search.method != LEAST_SQUARES:
        raise UsageError("--width is for --method least-squares")
    if request.data.data == SAMPLED and not rotated:
        raise UsageError(
            "--data sampled is for --symmetry orthogonal --method activations; "
            "here --data file.py:batches yields batches"
        )
    if request.resume is not None:
        _check_resuming(request, rotated=rotated)
    if not rotated:
        _tell_idle(request)


def _tell_idle(request: MergeRequest) -> None:
    """Warn of options that say how to align, or run the models, where neither is done."""
    runs = request.preserve_first is not None or request.search.method in RUNNING
    idle: dict[str, object] = {"--data": request.data.data}
    if request.renormalization is not None:
        runs = runs or request.renormalization.method != CALIBRATE
        if not runs and request.tracing.target is None:
            warn_idle(idle, f"{CALIBRATE} runs nothing")
        return
    if runs:
        return
    if request.strategy == "none":
        idle["--ref"] = request.reference
        tell_idle(request, "--strategy none averages the models as they are", **idle)
    elif request.tracing.target is None:  # which runs on them
        warn_idle(idle, "models are run by --method, --renormalize and --preserve-first alone")


def _check_preserving(request: MergeRequest) -> None:
    """Raise for what does not go with --preserve-first."""
    if request.search.method in RUNNING:
        names = ", ".join(RUNNING)
        raise UsageError(f"--preserve-first permutes units and averages, unlike {names}")
    if request.output.max_shard_size:
        raise UsageError("--max-shard-size does not go with --preserve-first")
    if request.output.card:
        raise UsageError("--card does not go with --preserve-first, which writes a module")
    if request.renormalization is not None:
        raise UsageError(
            "--renormalize does not go with --preserve-first: run `rebasin renormalize` on the "
            "result, with --model merged.py:build"
        )


def _check_saving(request: MergeRequest, *, rotated: bool) -> None:
    """Raise for what a way to merge has none of."""
    if request.save_maps is not None and request.search.method not in LINEAR:
        raise UsageError("--save-maps is for --method zipit or cca")
    if request.save_parents is not None and rotated:
        raise UsageError(
            "--save-parents is for a merge by permutations; `rebasin align --symmetry orthogonal` "
            "writes rotated models"
        )


def _check_resuming(request: MergeRequest, *, rotated: bool) -> None:
    """Raise for ways to merge that list no matches."""
    if rotated or request.preserve_first is not None or request.search.method in RUNNING:
        raise UsageError("--resume lists matches of units, for a merge by permutations")
    if request.save_parents is not None:
        raise UsageError("--save-parents does not go with --resume")


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

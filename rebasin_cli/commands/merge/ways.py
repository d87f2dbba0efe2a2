"""What does not go with the way to merge that was asked for, or is of no use to it."""

from __future__ import annotations

from rebasin_cli.alignment.problem import tell_idle, warn_idle
from rebasin_cli.commands.merge.command import LEAST_SQUARES, LINEAR, RUNNING, MergeRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.folding.rotation_problem import rotates
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

"""What a command needs to correct the statistics of a merged model, decided from headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.network.network import UserCode, plan_network, plan_user_code
from rebasin_cli.options.data import Data
from rebasin_cli.options.renormalization import Renormalization
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.renormalization.bias_calibration import CALIBRATIONS
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import METHODS

MEASURING = ("reset", "repair", "rescale", "reshift")  # run the merged model
CALIBRATE = "calibrate"  # corrects biases, from files; all others correct layers of a model
METHOD_NAMES = (*METHODS, CALIBRATE)
DECAY = "weights"
_GUESS = {True: "reset", False: "rescale"}  # with BatchNorm, without


@dataclass(frozen=True)
class CorrectionPlan:
    """All that correcting a model takes besides the model and its parents.

    code: the model and what it is run on, None if none is run. selects: takes tensors by their
    names in the checkpoint.
    """

    how: CorrectionSettings
    code: UserCode | None
    statistics: Checkpoint | None
    selection: Selection
    tracing: Tracing
    data: Data
    decay: str = DECAY

    @property
    def method(self) -> str:
        return self.how.method

    @property
    def by_parents(self) -> bool:
        """Whether the parents are read."""
        return self.method != "reset" and self.statistics is None

    @property
    def runs(self) -> bool:
        """Whether models are run on data."""
        return self.code is not None and self.statistics is None and self.method != CALIBRATE

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "method": self.method,
            "sequential": self.how.sequential,
            "average": self.how.average,
            "factor": self.how.factor,
            "model": self.tracing.target,
            "data": self.data.data,
            "statistics": str(self.statistics.path) if self.statistics else None,
        }


def plan_correction(
    checkpoint: Checkpoint,
    selection: Selection,
    tracing: Tracing,
    data: Data,
    asked: Renormalization,
) -> CorrectionPlan:
    """Return how a checkpoint's statistics will be corrected.

    Raises UsageError for options that do not fit the method, and for a model or data that it needs.
    """
    method = asked.method or _GUESS[has_batch_norm(checkpoint)]
    if method not in METHOD_NAMES:
        hint = suggest(method, METHOD_NAMES) or ", ".join(METHOD_NAMES)
        raise UsageError(f"no method is called {method!r}", hint=hint)
    _check(method, asked)
    how = CorrectionSettings(method, asked.sequential, asked.average, asked.factor)
    return CorrectionPlan(
        how=how,
        code=_user_code(replace(asked, method=method), checkpoint, selection, tracing, data),
        statistics=open_checkpoint(asked.statistics) if asked.statistics else None,
        selection=selection,
        tracing=tracing,
        data=data,
        decay=asked.decay,
    )


def has_batch_norm(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint holds running statistics."""
    return any(name.endswith("running_var") for name in checkpoint.names())


def _check(method: str, asked: Renormalization) -> None:
    """Raise UsageError for options that say nothing to the method."""
    said: Mapping[str, tuple[bool, tuple[str, ...]]] = {
        "--sequential": (asked.sequential, MEASURING),
        "--average": (asked.average, ("repair", "rescale", "reshift", "closed-form")),
        "--factor": (asked.factor != 1, ("repair", "rescale", "closed-form")),
        "--decay": (asked.decay != DECAY, (CALIBRATE,)),
        "--statistics": (asked.statistics is not None, ("closed-form",)),
    }
    for option, (given, methods) in said.items():
        if given and method not in methods:
            raise UsageError(
                f"{option} says nothing to method {method!r}",
                hint=f"--method {' or '.join(methods)}",
            )
    if asked.decay not in CALIBRATIONS:
        raise UsageError(f"no decay is called {asked.decay!r}", hint=" or ".join(CALIBRATIONS))
    if not (isfinite(asked.factor) and asked.factor > 0):
        raise UsageError(f"--factor {asked.factor}: a factor of deviations is a positive number")


def _user_code(
    asked: Renormalization,
    checkpoint: Checkpoint,
    selection: Selection,
    tracing: Tracing,
    data: Data,
) -> UserCode | None:
    method = asked.method
    if method == CALIBRATE and tracing.target is None:
        return None
    if method == CALIBRATE or asked.statistics is not None:
        if tracing.target is None:
            raise UsageError(
                "--statistics say what layers do, not where they are in the file",
                hint="--model file.py:Class names the model",
            )
        return UserCode(plan_network(checkpoint, selection, tracing), data)
    return plan_user_code(checkpoint, selection, tracing, data, fed=True)

"""The weights of an average, and which model is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from rebasin_cli.errors import UsageError, suggest

FARTHEST = 1e6  # beyond it nothing of the models is left in float32


def check_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Return one weight a model, all 1 if none is given. Raises UsageError if they cannot be."""
    if not weights:
        return (1.0,) * count
    if len(weights) != count:
        raise UsageError(
            f"{len(weights)} weights for {count} models", hint="-w 0.5,0.3,0.2: one for each model"
        )
    if not all(map(isfinite, weights)):
        raise UsageError("a weight is not a finite number")
    if not isfinite(sum(map(abs, weights))):
        raise UsageError("the sum of the weights is beyond the largest number")
    if abs(sum(weights)) < 1e-12 * sum(map(abs, weights)) or not any(weights):
        raise UsageError(
            "the weights add up to zero", hint="the result is divided by their sum: change one"
        )
    return tuple(weights)


def check_alphas(alphas: Sequence[float]) -> None:
    """Raise UsageError for a place between models, or beyond them, that none can be at."""
    for alpha in alphas:
        if not (isfinite(alpha) and abs(alpha) <= FARTHEST):
            raise UsageError(f"--at {alpha}: a place is a finite number up to {FARTHEST:g}")


def reference_position(reference: Path | None, paths: Sequence[Path]) -> int:
    """Return which of the paths is the reference."""
    if reference is None:
        return 0
    same = [k for k, path in enumerate(paths) if path == reference or _one_file(path, reference)]
    if not same:
        hint = suggest(str(reference), map(str, paths)) or "give one of the MODEL arguments"
        raise UsageError(f"the reference {reference} is not among the models", hint=hint)
    return same[0]


def _one_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)

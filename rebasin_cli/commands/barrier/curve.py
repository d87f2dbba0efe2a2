"""The barrier between two models: how much worse the way between them is than its ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Score = float


@dataclass(frozen=True)
class Peak:
    """Where a curve is farthest on the wrong side of a yardstick, and by how much."""

    height: float
    alpha: float


@dataclass(frozen=True)
class Barrier:
    """The barrier of a curve by both of its definitions; neither is negative.

    chord: above the straight line between the values at the ends (Frankle et al. 2020, "Linear
    mode connectivity", section 2). mean: above the mean of the two values, as some programs
    compute it; the two differ where the ends do.
    """

    chord: Peak
    mean: Peak


def sign(score: str) -> int:
    """Return 1 for a score that is better when lower, -1 for one better when higher, 0 if unknown.

    The last word of the name decides: `loss` and `train_loss`, `accuracy` and `top5-accuracy`.
    """
    word = re.split(r"[\W_]+", score.lower())[-1]
    return {"loss": 1, "accuracy": -1}.get(word, 0)


def barrier(curve: Mapping[float, Score], *, sign: int = 1) -> Barrier:
    """Return the barrier of a curve: its value by alpha, those at 0 and 1 among them.

    sign: as `sign` returns it; -1 measures how far the curve falls. Places outside of [0, 1] do
    not count. Raises KeyError if an end is missing.
    """
    first, last = curve[0.0], curve[1.0]

    def peak(yardstick: Callable[[float], float]) -> Peak:
        places = sorted(alpha for alpha in curve if 0 <= alpha <= 1)
        above = {alpha: sign * (curve[alpha] - yardstick(alpha)) for alpha in places}
        highest = max(above, key=above.__getitem__)
        return Peak(max(0.0, above[highest]), highest)

    middle = first + (last - first) / 2
    return Barrier(peak(lambda alpha: chord(first, last, alpha)), peak(lambda alpha: middle))


def chord(first: Score, last: Score, alpha: float) -> Score:
    """Return (1 - alpha) first + alpha last; exactly the ends at 0 and 1."""
    return (1 - alpha) * first + alpha * last


def share_removed(before: Peak, after: Peak) -> float | None:
    """Return the share of a barrier that is gone; None if there was none."""
    return 1 - after.height / before.height if before.height > 0 else None

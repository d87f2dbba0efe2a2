"""What `rebasin barrier` finds: points, the curves or the plane that they make, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.commands.barrier.curve import Barrier
from rebasin_cli.commands.barrier.plane import Plane
from rebasin_cli.network.scoring.ensemble import Ensemble


@dataclass(frozen=True)
class MixturePoint:
    """A place where a mixture of the models is judged.

    curve: `naive`, `aligned`, `aligned, METHOD` or `plane`. weights: of the models, of sum 1.
    at: its coordinates in the plane.
    """

    curve: str
    weights: tuple[float, ...]
    at: tuple[float, float] | None = None

    @property
    def alpha(self) -> float:
        """The weight of the second model."""
        return self.weights[1]

    @property
    def end(self) -> int | None:
        """The number of the model if it is one of them, else None."""
        return self.weights.index(1.0) if sorted(map(abs, self.weights))[-2] == 0 else None

    def __str__(self) -> str:
        if self.at is None:
            return f"{self.curve} curve at alpha {self.alpha:.6g}"
        return f"plane at {self.at[0]:.4g}, {self.at[1]:.4g}"


@dataclass(frozen=True)
class Scored:
    """A mixture and what the judge says of the model there.

    of: what the scores are of, as JSON values: digests of the models, data, evaluation.
    reused: not computed by this run, or another curve has the same point.
    """

    mixture: MixturePoint
    scores: Mapping[str, float]
    seconds: float
    of: Mapping[str, Any]
    reused: bool = False

    def fields(self) -> dict[str, Any]:
        """Return the point as JSON values, as events and files to resume from have it."""
        mixture = self.mixture
        place = (
            {"alpha": mixture.alpha}
            if mixture.at is None
            else {"x": mixture.at[0], "y": mixture.at[1]}
        )
        return {
            "curve": mixture.curve,
            **place,
            "weights": list(mixture.weights),
            "scores": dict(self.scores),
            "seconds": self.seconds,
            "of": dict(self.of),
        }


@dataclass(frozen=True)
class FoundBarrier:
    """The barrier of one score on one curve.

    chord_removed, mean_removed: shares of the naive barrier that are gone; None on the naive
    curve itself, and where that has no barrier.
    """

    curve: str
    score: str
    barrier: Barrier
    chord_removed: float | None = None
    mean_removed: float | None = None


@dataclass(frozen=True)
class JudgedPoints:
    """All points that were judged, in order. complete: False if something failed on the way.

    notes: sentences about the work. hints: what to try next.
    """

    models: tuple[Path, ...]
    points: tuple[Scored, ...]
    complete: bool
    seconds: float
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores, in the order of the judge."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.scores))

    @property
    def reused(self) -> int:
        return sum(point.reused for point in self.points)


@dataclass(frozen=True)
class Curves:
    """What is known of the line between two models.

    ensemble: of the two models at its ends; None where the line was not finished.
    """

    survey: JudgedPoints
    barriers: tuple[FoundBarrier, ...]
    ensemble: Ensemble | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(point.mixture.curve for point in self.survey.points))

    def curve(self, name: str, score: str) -> dict[float, float]:
        """Return a score of a curve by alpha, in order."""
        points = sorted(self._on(name, score), key=lambda point: point.mixture.alpha)
        return {point.mixture.alpha: point.scores[score] for point in points}

    def _on(self, name: str, score: str) -> Iterator[Scored]:
        mine = (point for point in self.survey.points if point.mixture.curve == name)
        return (point for point in mine if score in point.scores)


@dataclass(frozen=True)
class Contour:
    """What is known of the plane through three models: the three first, then a grid, by rows."""

    survey: JudgedPoints
    plane: Plane

    def grid(self, score: str) -> Sequence[tuple[float, float, float]]:
        """Return x, y and a score of every point of the grid that has it."""
        points = self.survey.points[len(self.plane.corners) :]
        return [
            (*p.mixture.at, p.scores[score]) for p in points if p.mixture.at and score in p.scores
        ]

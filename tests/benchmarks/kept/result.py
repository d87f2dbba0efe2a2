"""A pair of models to try, and what it came to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.benchmarks.kept.forms import Form
from tests.benchmarks.kept.kinds import Kind

HEADS = f"{'family':38} {'form':20} {'seconds':>7} {'moved':>6} {'change':>7}  spec: outcome"


@dataclass(frozen=True)
class Side:
    """One of the two models of a pair: its class and how it is written."""

    kind: Kind
    form: Form


@dataclass(frozen=True)
class Trial:
    """A pair of models. refusable: whether the two may be refused, being of two kinds."""

    family: str
    name: str
    a: Side
    b: Side
    refusable: bool = False

    @property
    def library(self) -> str:
        return self.family.partition(":")[0]


@dataclass(frozen=True)
class Result:
    """What a trial came to. moved: share of B's elements that are not where they were.

    change: of outputs, relative; wrong: sentences, the one on the function first.
    """

    trial: Trial
    spec: str = "-"
    seconds: float = 0.0
    moved: float = 0.0
    change: float = math.nan
    refused: str = ""
    wrong: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        if any(sentence.startswith("BROKEN") for sentence in self.wrong):
            return "broken"
        if self.wrong or (self.refused and not self.trial.refusable):
            return "wrong"
        return "rightly refused" if self.refused else "kept"

    @property
    def outcome(self) -> str:
        """Return in words what happened."""
        if self.wrong:
            return "; ".join(self.wrong)
        if self.refused:
            return f"refused: {self.refused}"
        return "kept" if self.moved else "kept, nothing moves"

    @property
    def line(self) -> str:
        """Return the row of the table under `HEADS`."""
        change = "" if math.isnan(self.change) else f"{self.change:.0e}"
        return (
            f"{self.trial.family:38} {self.trial.name:20} {self.seconds:7.1f} {self.moved:6.0%} "
            f"{change:>7}  {self.spec}: {self.outcome}"
        )

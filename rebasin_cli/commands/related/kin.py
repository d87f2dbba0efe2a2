"""What two models are to each other, and by which figures that is decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rebasin_cli.commands.related.copies import SPARSE, Marks, Stored
from rebasin_cli.commands.related.nearness import MatrixScore, Nearness

# Excess of the cosine over its null value, see `nearness`. Shared networks that were trained apart
# come to .14 at most, small perceptrons of one teacher to .29; 400 steps of training at a high rate
# leave .80, without the smallest 80 % of the weights it is .63 (tests/benchmarks/README.md).
RELATED, UNCLEAR = 0.45, 0.3
SOME = 0.05  # of the weights: what makes a part of a model
FAR = 0.3  # of a model's length: 4 bits for each weight leave .1


class Kin(Enum):
    """What two models are to each other; the value is its name in events."""

    SAME_BYTES = "same bytes"
    SAME_TENSORS = "same tensors"
    PERMUTED = "permuted copy"
    ROUNDED = "rounded copy"
    ROTATED = "rotated copy"
    RESCALED = "rescaled copy"
    QUANTISED = "quantised copy"
    PRUNED = "pruned copy"
    TRAINED = "related by training"
    PART = "related in part"
    UNCLEAR = "unclear"
    INDEPENDENT = "independent"

    @property
    def related(self) -> bool:
        return self not in (Kin.UNCLEAR, Kin.INDEPENDENT)


@dataclass(frozen=True)
class KinPair:
    """What two models are to each other, and why.

    moved: units of the second that changed place to be compared as stored. stored: how the two
    differ then; None: their tensors are the same as they are. nearness: None where `stored` says
    it all. marks: of both. swapped: the first is what was made of the second. dtype: the coarser.
    """

    a: Path
    b: Path
    kin: Kin
    moved: int = 0
    stored: Stored | None = None
    nearness: Nearness | None = None
    marks: tuple[Marks, Marks] | None = None
    swapped: bool = False
    dtype: str = ""
    seconds: float = 0.0

    @property
    def excess(self) -> float:
        """The score: 1 for copies, 0 for what has nothing in common."""
        return 1.0 if self.nearness is None else self.nearness.excess

    @property
    def kept(self) -> tuple[MatrixScore, ...]:
        """The matrices that descend from their counterparts."""
        return tuple(m for m in self.nearness.matrices if m.kept) if self.nearness else ()


def kin_of(stored: Stored, near: Nearness, marks: tuple[Marks, Marks]) -> Kin:
    """Return what two models are to each other that are no copies of one another."""
    made = _made_of_the_other(stored, near, marks)
    if made:
        return made
    if near.kept >= SOME and near.foreign >= SOME:
        return Kin.PART
    if near.excess >= RELATED and near.kept >= SOME:
        return Kin.TRAINED
    return Kin.UNCLEAR if near.excess >= UNCLEAR else Kin.INDEPENDENT


def _made_of_the_other(stored: Stored, near: Nearness, marks: tuple[Marks, Marks]) -> Kin | None:
    """Return what was done to one of two models to have the other, if its weights tell."""
    a, b = marks
    if abs(a.zeros - b.zeros) >= SPARSE and stored.same_where_both:
        return Kin.PRUNED
    if a.quantised != b.quantised and stored.distance <= FAR and near.foreign < SOME:
        return Kin.QUANTISED
    return None


def is_swapped(kin: Kin, marks: tuple[Marks, Marks]) -> bool:
    """Return whether it is the first of two models that was pruned, or quantised."""
    a, b = marks
    return a.zeros > b.zeros if kin is Kin.PRUNED else kin is Kin.QUANTISED and a.quantised

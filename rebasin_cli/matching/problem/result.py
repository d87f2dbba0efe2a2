"""What a matching found: permutations, a status that says what it means, and the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rebasin_cli.permutation import Permutation


class Status(Enum):
    """How a matching ended; the value is the sentence for people."""

    MOVED = "a better order of units was found"
    EXACT = "the model is the reference with its units reordered"
    EQUAL = "the two models are equal already"
    STAYED = "no order of units was found that is better than the present one"
    NOTHING = "nothing could be aligned: no group may move"
    UNTOLD = "nothing could be aligned: whole numbers and buffers do not tell which units are alike"
    LIMIT = "stopped at the limit of visits; more might be gained"


@dataclass(frozen=True)
class Change:
    """A figure before and after alignment."""

    before: float
    after: float


@dataclass(frozen=True)
class GroupChange:
    """What became of one group.

    moved: units (of all its parents) that changed place, out of `units`.
    cosine: of all weights of the group seen as one vector, reference against other.
    gain: rise of the objective in the blocks the group occurs in. fixed: it could not move.
    """

    name: str
    size: int
    units: int
    moved: int
    cosine: Change
    gain: float
    fixed: bool = False


@dataclass(frozen=True)
class Margin:
    """How far the partners of a group's units are ahead of all others.

    mean: over units, the cosine with the partner less the best cosine with another unit of the
    other model. nearest: the share of units whose partner is the most similar one.
    """

    mean: float
    nearest: float


@dataclass(frozen=True)
class UnitFigures:
    """How alike the matched units of one group are; None where no unit is alive in both models.

    cosine: mean over units, of all their weights that vote. collapse: mean over units of
    sqrt((1 + cosine) / 2), the norm of the average of two unit vectors; 1: nothing collapses.
    margin: None where it was not asked for or there is none.
    """

    cosine: Change | None
    collapse: Change | None
    margin: Margin | None = None


@dataclass(frozen=True)
class UnitComparison:
    """The figures of two models before and after alignment.

    groups: by name. whole: means over the groups that may move, weighted by elements.
    cosine: of the two models, each as one vector over the voting blocks that groups occur in.
    chance: what matching would bring it to, at most, for unrelated values of the same spread.
    alike: every block holds the same sums, so one may be the other in another order.
    """

    groups: Mapping[str, UnitFigures]
    whole: UnitFigures
    cosine: Change
    chance: float
    alike: bool

    @property
    def nearness(self) -> Change:
        """The cosines between chance (0) and equality (1)."""
        room = max(1 - self.chance, 1e-12)
        before, after = ((x - self.chance) / room for x in (self.cosine.before, self.cosine.after))
        return Change(before, after)


@dataclass(frozen=True)
class HeldOut:
    """What the midpoint of two models loses on data that nothing was learned from.

    loss: with the permutations that learning began with, and with those that were kept. losses:
    of the start, then after each epoch. best: the epoch that what was kept is from; 0: the start.
    norms: whether norms used each batch's own statistics, which a merged model stores only once
    they are reset. stopped: why learning broke off, if it did.
    """

    loss: Change
    losses: tuple[float, ...]
    best: int
    norms: bool = False
    stopped: str = ""

    @property
    def epochs(self) -> int:
        return len(self.losses) - 1


@dataclass(frozen=True)
class Matching:
    """Permutations that bring the other model next to the reference.

    objective: <reference, permuted other> over the voting tensors; distance: |reference -
    permuted other| over the same tensors. history: the objective from the start that won,
    after each accepted step; it never falls; empty where the permutations were chosen by a loss
    on data. start, method: what led there. held_out: that loss. unseen: groups that were matched
    on weights although the rest was matched on activations: none tell of them. comparison: unit by
    unit, where it was asked for and made on the way.
    """

    permutations: Mapping[str, Permutation]
    status: Status
    objective: Change
    distance: Change
    groups: tuple[GroupChange, ...]
    history: tuple[float, ...]
    start: str
    method: str = "weights"
    held_out: HeldOut | None = None
    unseen: tuple[str, ...] = ()
    comparison: UnitComparison | None = None

    @property
    def moved(self) -> int:
        """The number of groups in which a unit changes place."""
        return sum(group.moved > 0 for group in self.groups)

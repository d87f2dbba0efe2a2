"""Block ascent over families of groups, each with the maps of its class, on folded models.

The objective of weight matching (arXiv 2209.04836, section 3.2) with every block divided by its
norms, sum over blocks of <A, M B> / (|A| |B|): a stream that no gain fixes has a free scale, which
must not decide what counts (the plain sum ends at .56 instead of .36 when a stream is tripled). A
block and not a tensor: queries, keys and values that are stored as one are three things.

One family after another is put where it is best with all others in place, as they come in the file;
groups that are not permuted, the residual streams, last: they see a sum over all layers, and the
layers can answer to them only from where they are. The first place of a stream comes from rows that
mean the same in both models without any matching: those of the vocabulary, positions, classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.family_solution import FamilySolver
from rebasin_cli.symmetry.maps import GroupMaps

RISE = 1e-4  # of the objective in a sweep, below which the search ends
SWEEPS = 20  # five are within .02 of the barrier


@dataclass(frozen=True)
class MapMatching:
    """The maps that bring the other model next to the reference.

    cosine: of the two folded models, before and after. sweeps: how often each family was visited.
    null: the cosine that unrelated weights come to by the same search; None: not looked for.
    """

    maps: GroupMaps
    cosine: Change
    sweeps: int
    null: float | None = None


@dataclass
class MapSearch(ABC):
    """A search in progress; subclasses know where the tensors of both models are.

    maps: of the other model, replaced as better ones are found. rise: share of the objective that a
    sweep has to gain, or the search ends.
    """

    bound: BoundSpec
    classes: Mapping[str, str]
    maps: GroupMaps
    rise: float = field(default=RISE, kw_only=True)
    families: Mapping[str, GroupFamily] = field(init=False)

    def __post_init__(self) -> None:
        self.families = families(self.bound)

    @property
    def ordered(self) -> list[str]:
        """The families as they are visited: by permutations first."""
        return sorted(self.families, key=lambda root: self.classes[root] != PERMUTATION)

    @property
    def solver(self) -> FamilySolver:
        return FamilySolver(self.bound.groups, self.classes)

    def run(self, progress: Progress = silent) -> MapMatching:
        """Sweep until the objective rises no more."""
        ordered = self.ordered
        last = [root for root in ordered if self.classes[root] != PERMUTATION]
        before, reached = self.cosine(), -inf
        for root in last:
            self.visit(self.families[root], anchored=True)
        for sweep in range(SWEEPS):
            for number, root in enumerate(ordered):
                done = sweep * len(ordered) + number
                progress("matching", done, SWEEPS * len(ordered))
                self.visit(self.families[root])
            last_reached, reached = reached, self.objective()
            if reached - last_reached < self.rise * abs(reached):
                break
        return MapMatching(self.maps, Change(before, self.cosine()), sweep + 1)

    @abstractmethod
    def visit(self, family: GroupFamily, *, anchored: bool = False) -> None:
        """Put a family where it is best; anchored: by blocks that no other family is in, alone."""

    @abstractmethod
    def objective(self) -> float:
        """Return the sum over blocks of <A, M B> / (|A| |B|), after a sweep."""

    @abstractmethod
    def cosine(self) -> float:
        """Return the cosine of the two models, all voting blocks taken as one vector."""

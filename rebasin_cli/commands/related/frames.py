"""What two models may be moved by before they are compared, and how that is searched for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.map_sweeps import RISE
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms, FoldPlan
from rebasin_cli.tensors import TensorSource

MapFinder = Callable[[TensorSource, TensorSource], GroupMaps]


@dataclass(frozen=True)
class PairFrame:
    """What two models may be moved by: permutations, or rotations of their folded streams.

    bound: whose tensors move. classes: of each group, what its maps are. folding: None for
    permutations.
    """

    bound: BoundSpec
    classes: Mapping[str, str]
    movable: frozenset[str] | None
    folding: FoldPlan | None

    def folded(self, model: TensorSource) -> TensorSource:
        """Return a model as its tensors move."""
        return model if self.folding is None else FoldedNorms(model, self.folding)

    def moved(self, model: TensorSource, maps: GroupMaps) -> TensorSource:
        """Return a folded model, moved."""
        if self.folding is None:
            return Permuted(model, self.bound.tensors, maps.permutations)
        return Carried(model, self.bound.tensors, maps)

    def finder(self, settings: Settings, progress: Progress, *, rise: float = RISE) -> MapFinder:
        """Return what finds the maps that bring a folded model next to another.

        rise: share of the objective that a sweep of rotations has to gain.
        """

        def orders(a: TensorSource, b: TensorSource) -> GroupMaps:
            found = match_weights(
                a, b, self.bound, settings=settings, movable=self.movable, progress=progress
            )
            return GroupMaps(found.permutations, {})

        def rotations(a: TensorSource, b: TensorSource) -> GroupMaps:
            return match_maps(
                a,
                b,
                self.bound,
                self.classes,
                rise=rise,
                max_memory=settings.max_memory,
                device=settings.device,
                progress=progress,
            ).maps

        return orders if self.folding is None else rotations


def frame_of_orders(bound: BoundSpec, movable: frozenset[str]) -> PairFrame:
    """Return the frame of permutations."""
    return PairFrame(bound, dict.fromkeys(bound.groups, PERMUTATION), movable, None)


def frame_of_rotations(plan: FoldPlan) -> PairFrame:
    """Return the frame of rotations of folded streams, and all that goes with them."""
    return PairFrame(plan.moving, plan.classes, None, plan)

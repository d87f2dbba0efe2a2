"""What two models may be moved by before they are compared, and how that is searched for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.problem.similarity_cache import update_work
from rebasin_cli.permutation import Permutation
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.map_search import MapSettings, match_maps
from rebasin_cli.symmetry.map_sweeps import RISE
from rebasin_cli.symmetry.maps import Carried, GroupMaps, OrthogonalMap
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorSource

CHEAP = 5e9  # multiplications of a sweep; beyond it searches take seconds, and are cut short
VISITS, ROUGH = 3, 1e-2  # of each family, and what a sweep of rotations has to gain, of those
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

    @property
    def work(self) -> float:
        """The multiplications of one sweep of a search."""
        return sum(map(update_work, families(self.bound, self.movable).values()))

    @property
    def costly(self) -> bool:
        """Whether a search takes so long that it is cut short."""
        return self.work > CHEAP

    def folded(self, model: TensorSource) -> TensorSource:
        """Return a model as its tensors move."""
        return model if self.folding is None else FoldedNorms(model, self.folding)

    def moved(
        self, model: TensorSource, maps: GroupMaps, *, dtype: torch.dtype = torch.float64
    ) -> TensorSource:
        """Return a folded model, moved; dtype: in which it is rotated."""
        if not maps.linear:
            return Permuted(model, self.bound.tensors, maps.permutations)
        return Carried(model, self.bound.tensors, maps, dtype)

    def finder(
        self,
        settings: Settings,
        progress: Progress,
        *,
        rise: float = RISE,
        dtype: torch.dtype | None = None,
    ) -> MapFinder:
        """Return what finds the maps that bring a folded model next to another.

        rise: share of the objective that a sweep of rotations has to gain. dtype: of their
        products.
        """

        def orders(a: TensorSource, b: TensorSource) -> GroupMaps:
            found = match_weights(
                a, b, self.bound, settings=settings, movable=self.movable, progress=progress
            )
            return GroupMaps(found.permutations, {})

        def rotations(a: TensorSource, b: TensorSource) -> GroupMaps:
            how = MapSettings(rise, settings.max_memory, settings.device, dtype)
            bound, classes = self.bound, self.classes
            return match_maps(a, b, bound, classes, settings=how, progress=progress).maps

        return orders if self.folding is None else rotations

    def in_classes(self, orders: GroupMaps) -> GroupMaps:
        """Return orders of all groups as maps of their classes."""
        linear = {
            name: OrthogonalMap(_as_matrix(permutation), permutation.parents)
            for name, permutation in orders.permutations.items()
            if self.classes[name] != PERMUTATION
        }
        kept = {n: p for n, p in orders.permutations.items() if n not in linear}
        return GroupMaps(kept, linear)


def _as_matrix(permutation: Permutation) -> Tensor:
    return torch.eye(permutation.index.shape[-1], dtype=torch.float64)[permutation.index]


def cut_short(settings: Settings) -> Settings:
    """Return how to search where that takes long: relatives are found by the first visits."""
    return replace(settings, effort="quick", visits=VISITS)


def frame_of_orders(bound: BoundSpec, movable: frozenset[str]) -> PairFrame:
    """Return the frame of permutations."""
    return PairFrame(bound, dict.fromkeys(bound.groups, PERMUTATION), movable, None)


def frame_of_rotations(plan: FoldPlan) -> PairFrame:
    """Return the frame of rotations of folded streams, and all that goes with them."""
    return PairFrame(plan.moving, plan.classes, None, plan)

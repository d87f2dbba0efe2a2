"""How far two models are brought together by the freedom of the maps alone: a null value.

The cosine of two aligned models grows with what the maps may do. On weights that have nothing in
common orthogonal maps of a small ViT reach .35, permutations .19, so that the cosines themselves do
not tell which of the two is right. The null value is what the same search reaches where nothing is
to be found: each block of each weight of the other model is moved along the stream by a random map
of its own. Every block keeps its length and its spectrum, and no map puts them in order again. What
the cosine is above it, the excess, can be compared: the larger one is the class that was planted in
18 of 18 pairs, and orthogonal in 9 of 9 that were trained apart (tests/benchmarks/planted_maps.py).

The cosine is that of the folded models, all blocks that vote as one vector. The mean over blocks of
their own cosines, which the search for orthogonal maps raises, is no measure for both: permutations
are found by the plain sum. In it three pairs of a GPT have .055 to .071 and .070 to .079, by the
random maps that were drawn, instead of .026 to .030 and .091 to .101.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.map_search import MapSettings, cosine_of, match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import carry
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor, ByTensor

FoldedPair = tuple[TensorSource, TensorSource]  # folded, the reference first


@dataclass(frozen=True)
class Standing:
    """The cosine of two models aligned, and the null value that it is to be held against."""

    cosine: float
    null: float

    @property
    def excess(self) -> float:
        return self.cosine - self.null


class Scattered(ByTensor):
    """A folded model with each block moved along the stream by a random map of its own.

    classes: of each group, the solver that says what its maps are. Same seed, same tensors.
    """

    def __init__(
        self, source: TensorSource, plan: FoldPlan, classes: Mapping[str, str], seed: int
    ) -> None:
        tensors = plan.moving.tensors
        super().__init__(source, (t for t in tensors if t.groups & plan.streams.keys()))
        self._plan, self._classes = plan, classes
        self._seeds = {tensor.members: seed + number for number, tensor in enumerate(tensors)}

    def _remade(self, tensor: BoundTensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seeds[tensor.members])
        groups = self._plan.bound.groups
        values = tensor.load(self._source)
        for block in tensor.blocks:
            streams = dict.fromkeys(n for n in block.groups if n in self._plan.streams)
            maps = draw_maps((groups[n or ""] for n in streams), self._classes, generator)
            values = carry(values, replace(tensor, blocks=(block,)), maps)
        return values


def with_null(
    found: MapMatching,
    pair: FoldedPair,
    plan: FoldPlan,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> MapMatching:
    """Return what `match_maps` found by weights, with the null value of its cosine."""
    reference, other = pair
    scattered = Scattered(other, plan, plan.classes, seed)
    settings = MapSettings(device=device)
    null = match_maps(
        reference, scattered, plan.moving, plan.classes, settings=settings, progress=progress
    )
    return replace(found, null=null.cosine.after)


def permutation_standing(
    pair: FoldedPair,
    plan: FoldPlan,
    settings: Settings,
    *,
    labels: tuple[str, str] = ("reference", "other"),
    progress: Progress = silent,
) -> Standing:
    """Return what permutations alone, matched by their own search, make of two folded models.

    labels: what to call the models in an error. Raises NotFiniteError.
    """
    reference, other = pair
    alone = dict.fromkeys(plan.classes, PERMUTATION)
    scattered = Scattered(other, plan, alone, settings.seed)
    bound = replace(plan.moving, groups=plan.bound.groups)  # fixed as permutations have them
    cosines = []
    for source in (other, scattered):
        found = match_weights(
            reference, source, bound, settings=settings, labels=labels, progress=progress
        )
        moved = Permuted(source, bound.tensors, found.permutations)
        cosines.append(cosine_of(reference, moved, plan.moving, plan.classes))
    return Standing(*cosines)

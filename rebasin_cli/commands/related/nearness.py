"""How near the matrices of two models are once nothing that a function leaves free is between them.

Of each matrix the cosine with its counterpart, and the null value: what the same search comes to
where nothing is to be found. For it the entries of each block of the second model are shuffled. To
move blocks by random maps of their own, which would keep their spectra, is no null for relatives:
the search finds every other one of them again. The excess, (cosine - null) / (1 - null), is 0 for
what has nothing in common and 1 for a copy.

Matching does the "assignment" of AWM (arXiv 2510.06738, section 3), and the cosine of what has no
basis inside heads stands where AWM has the unbiased CKA, which is invariant to such bases as well;
the null value, that CKA takes off for independent entries, is measured here, since what a search
finds in noise grows with its freedom.

Embeddings, heads and first layers have an axis that means the same in every model (words, classes,
pixels): data alone makes them alike. They count for a model as a whole only where it has no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from rebasin_cli.commands.related.frames import ROUGH, MapFinder, PairFrame, cut_short
from rebasin_cli.commands.related.gauge_free import MATRIX, GaugeFree, matrices_of
from rebasin_cli.commands.related.null_values import (
    Closeness,
    among_noise,
    closeness,
    least_near_unit,
    null_of_sample,
)
from rebasin_cli.folding.rotated_pair import AT_REST
from rebasin_cli.matching.problem.device_tensors import working_dtype
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.map_sweeps import RISE
from rebasin_cli.symmetry.maps import NO_MAPS, GroupMaps
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.ranges import Kept

COPIES = 6  # of a model at once: two, what is moved, and what a search holds
WORD = torch.float32.itemsize
# What of all units a long search is held against: of rotations half, an eighth of the work, since
# their null value is known less well from fewer (.04), and a quarter where it hardly matters; of
# orders as many as take seconds, within .006 (tests/benchmarks/null_from_a_sample.py).
HALF, SAMPLE = 0.5, 2e9  # a share, and multiplications of one sweep
# A cosine of units, from which two are nearer to one another than either can be to a third.
SETTLED = 0.75
# Where all cosines are this near to 1 it may be a copy, whose maps are then found to rounding.
CLOSE = 0.99
# A matrix of a copy with noise as long as itself comes to .5 and more; of networks trained apart
# the nearest comes to .3, an embedding or a head to .6 (tests/benchmarks/related_or_not.py).
KEPT, KEPT_ANCHOR = 0.5, 0.9
FOREIGN = 0.2  # a matrix below it comes from elsewhere


@dataclass(frozen=True)
class MatrixScore:
    """How near one matrix is to its counterpart: the cosine, the null value, its elements.

    anchored: one of its axes means the same in every model.
    """

    name: str
    cosine: float
    null: float
    elements: int
    anchored: bool

    @property
    def excess(self) -> float:
        return excess(self.cosine, self.null)

    @property
    def kept(self) -> bool:
        """Whether the matrix descends from its counterpart."""
        return self.excess >= (KEPT_ANCHOR if self.anchored else KEPT)

    @property
    def foreign(self) -> bool:
        """Whether the matrix has nothing to do with its counterpart."""
        return self.excess < FOREIGN


@dataclass(frozen=True)
class Nearness:
    """The scores of all matrices of two models, and the maps that they were found by.

    maps: of the second model, which was folded before if they rotate. settled: each unit is so near
    to its counterpart that no other could be meant.
    """

    matrices: tuple[MatrixScore, ...]
    maps: GroupMaps
    settled: bool = False

    @property
    def inner(self) -> tuple[MatrixScore, ...]:
        """The matrices between units; all, where there are none."""
        return tuple(m for m in self.matrices if not m.anchored) or self.matrices

    @property
    def cosine(self) -> float:
        return _share(self.inner, lambda matrix: matrix.cosine)

    @property
    def null(self) -> float:
        return _share(self.inner, lambda matrix: matrix.null)

    @property
    def excess(self) -> float:
        """The excess of matrices between units, which count by their elements."""
        return excess(self.cosine, self.null)

    @property
    def kept(self) -> float:
        """The share of elements in matrices that descend from their counterparts."""
        return _share(self.matrices, lambda matrix: float(matrix.kept))

    @property
    def foreign(self) -> float:
        """The share of elements in matrices that have nothing to do with their counterparts."""
        return _share(self.matrices, lambda matrix: float(matrix.foreign))


def _share(matrices: Sequence[MatrixScore], value: Callable[[MatrixScore], float]) -> float:
    """Return the mean of a value over the elements of matrices; 0 where all are zero."""
    total = sum(matrix.elements for matrix in matrices) or 1
    return sum(value(matrix) * matrix.elements for matrix in matrices) / total


def excess(cosine: float, null: float) -> float:
    """Return what of the way from the null value to 1 a cosine has come."""
    return (cosine - null) / max(1 - null, 1e-12)


def measure_nearness(
    a: TensorSource,
    b: TensorSource,
    frame: PairFrame,
    settings: Settings,
    progress: Progress,
    *,
    orders: Callable[[], GroupMaps] | None = None,
) -> Nearness:
    """Return how near two models are. Raises NotFiniteError.

    orders: of the second model, found where it turns out that they are needed: where it is as near
    by them as it can be, no rotation is looked for.
    """
    pair = free_pair(a, b, frame, settings, progress)
    maps, found, settled = _nearest(pair, orders)
    null = pair.null(settled=settled)
    bound = pair.frame.bound
    anchored = {t.members[0]: is_anchored(t, bound) for t in bound.tensors}
    scores = [
        MatrixScore(name, each.cosine, null.get(name, 0.0), each.elements, anchored[name])
        for name, each in found.items()
    ]
    return Nearness(tuple(scores), maps, settled)


def _nearest(
    pair: FreePair, orders: Callable[[], GroupMaps] | None
) -> tuple[GroupMaps, Mapping[str, Closeness], bool]:
    """Return the maps that bring two models nearest, how near that is, and whether it is settled.

    Cheap candidates come first: no map, then given orders, then a search.
    """
    as_stored = pair.closeness(NO_MAPS)
    if pair.settled(as_stored, NO_MAPS):
        return NO_MAPS, as_stored, True
    if orders and pair.frame.folding:
        permuted = orders()
        found = pair.closeness(permuted)
        if pair.settled(found, permuted):
            return pair.frame.in_classes(permuted), found, True
    maps = pair.found()
    found = pair.closeness(maps)
    # A search that is misled by what does not belong together misses what never moved.
    if _sum(as_stored) > _sum(found):
        return NO_MAPS, as_stored, False
    if pair.frame.folding and all(each.cosine >= CLOSE for each in found.values()):
        maps = pair.refined(maps)
        found = pair.closeness(maps)
    return maps, found, pair.settled(found, maps)


@dataclass(frozen=True)
class FreePair:
    """Two models without scales and bases, what may move them, and how that is searched for.

    frame: in which matrices alone vote. dtype: of what is compared.
    """

    first: TensorSource
    second: TensorSource
    frame: PairFrame
    settings: Settings
    progress: Progress
    dtype: torch.dtype

    def finder(self, frame: PairFrame) -> MapFinder:
        """Return what finds the maps of models in a frame, as exactly as in that of the pair."""
        long = self.frame.costly
        settings = cut_short(self.settings) if long else self.settings
        rise = ROUGH if long else RISE
        return frame.finder(settings, self.progress, rise=rise, dtype=self.dtype)

    def found(self) -> GroupMaps:
        """Return the maps that bring the second model next to the first."""
        return self.finder(self.frame)(self.first, self.second)

    def refined(self, maps: GroupMaps) -> GroupMaps:
        """Return rotations that are nearly right as exactly as they can be."""
        finder = self.frame.finder(self.settings, self.progress, rise=AT_REST)
        return maps.then(finder(self.first, self.frame.moved(self.second, maps)))

    def closeness(self, maps: GroupMaps) -> dict[str, Closeness]:
        return closeness(self.first, self._moved(maps), self.frame.bound)

    def settled(self, found: Mapping[str, Closeness], maps: GroupMaps) -> bool:
        """Return whether each unit is so near to its counterpart that no other could be meant."""
        if any(each.cosine < SETTLED for each in found.values()):
            return False
        return least_near_unit(self.first, self._moved(maps), self.frame.bound) >= SETTLED

    def _moved(self, maps: GroupMaps) -> TensorSource:
        return self.frame.moved(self.second, maps, dtype=self.dtype)

    def null(self, *, settled: bool) -> dict[str, float]:
        """Return the cosine of each matrix where nothing is to be found.

        settled: the cosine of the models is so near to 1 that it hardly matters.
        """
        seed, both = self.settings.seed, (self.first, self.second)
        if not self.frame.costly:
            found = among_noise(both, self.frame, self.finder(self.frame), seed)
            return {name: each.cosine for name, each in found.items()}
        share = min(1.0, (SAMPLE / self.frame.work) ** (1 / 3))
        if self.frame.folding:
            share = HALF / 2 if settled else HALF
        return null_of_sample(both, self.frame, self.finder, share, seed)


def free_pair(
    a: TensorSource, b: TensorSource, frame: PairFrame, settings: Settings, progress: Progress
) -> FreePair:
    """Return two models ready to be compared: without scales and bases, kept if there is room."""
    frame = replace(frame, bound=matrices_of(frame.bound))
    dtype = working_dtype(torch.device("cpu"), a, b)

    def free(model: TensorSource) -> TensorSource:
        made = GaugeFree(frame.folded(model), frame.bound, frame.classes, dtype)
        return Kept(made) if held_memory(frame.bound) <= settings.max_memory else made

    return FreePair(free(a), free(b), frame, settings, progress, dtype)


def is_anchored(tensor: BoundTensor, bound: BoundSpec) -> bool:
    """Return whether all units of a tensor are on one axis: others mean the same in every model."""

    def roots(block: Block) -> list[str]:
        owners = [bound.groups[name] for name in block.groups if name]
        return [group.name for group in owners if not group.parents]

    return all(len(roots(block)) < MATRIX for block in tensor.blocks)


def held_memory(bound: BoundSpec) -> int:
    """Return the bytes of comparing two models that are kept in memory. bound: `matrices_of`."""
    return COPIES * WORD * sum(prod(tensor.shape) for tensor in bound.tensors if tensor.votes)


def _sum(found: Mapping[str, Closeness]) -> float:
    return sum(each.cosine * each.elements for each in found.values())

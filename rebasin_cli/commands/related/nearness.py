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
from torch import Tensor

from rebasin_cli.commands.related.frames import PairFrame
from rebasin_cli.commands.related.gauge_free import MATRIX, GaugeFree, matrices_of
from rebasin_cli.folding.rotated_pair import AT_REST
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.maps import GroupMaps
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.ranges import Kept

STILL = GroupMaps({}, {})
COPIES = 6  # of a model in float64 at once: two, what is moved, and what a search holds
WORD = torch.float64.itemsize
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

    maps: of the second model, which was folded before if they rotate.
    """

    matrices: tuple[MatrixScore, ...]
    maps: GroupMaps

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
) -> Nearness:
    """Return how near two models are. Raises NotFiniteError."""
    matrices = replace(frame, bound=matrices_of(frame.bound))
    first, second = (_held(_free(m, matrices), matrices.bound, settings) for m in (a, b))
    maps = matrices.finder(settings, progress)(first, second)
    found = cosines(first, matrices.moved(second, maps), matrices.bound)
    # A search that is misled by what does not belong together misses what never moved.
    as_stored = cosines(first, second, matrices.bound)
    if _sum(as_stored) > _sum(found):
        maps, found = STILL, as_stored
    if frame.folding and all(cosine >= CLOSE for cosine, _ in found.values()):
        maps = matrices.finder(settings, progress, rise=AT_REST)(first, second)
        found = cosines(first, matrices.moved(second, maps), matrices.bound)
    noise = Shuffled(second, matrices.bound, settings.seed)
    order = matrices.finder(settings, progress)(first, noise)
    null = cosines(first, matrices.moved(noise, order), matrices.bound)
    anchored = {t.members[0]: is_anchored(t, matrices.bound) for t in matrices.bound.tensors}
    scores = [
        MatrixScore(name, cosine, null[name][0], elements, anchored[name])
        for name, (cosine, elements) in found.items()
    ]
    return Nearness(tuple(scores), maps)


def is_anchored(tensor: BoundTensor, bound: BoundSpec) -> bool:
    """Return whether all units of a tensor are on one axis: others mean the same in every model."""

    def roots(block: Block) -> list[str]:
        owners = [bound.groups[name] for name in block.groups if name]
        return [group.name for group in owners if not group.parents]

    return all(len(roots(block)) < MATRIX for block in tensor.blocks)


def _free(model: TensorSource, frame: PairFrame) -> TensorSource:
    return GaugeFree(frame.folded(model), frame.bound, frame.classes)


def _held(source: TensorSource, bound: BoundSpec, settings: Settings) -> TensorSource:
    """Return a source that keeps what it makes, if there is room for it."""
    return Kept(source) if held_memory(bound) <= settings.max_memory else source


def held_memory(bound: BoundSpec) -> int:
    """Return the bytes of comparing two models that are kept in memory. bound: `matrices_of`."""
    return COPIES * WORD * sum(prod(tensor.shape) for tensor in bound.tensors if tensor.votes)


def _sum(found: Mapping[str, tuple[float, int]]) -> float:
    return sum(cosine * elements for cosine, elements in found.values())


def cosines(a: TensorSource, b: TensorSource, bound: BoundSpec) -> dict[str, tuple[float, int]]:
    """Return the cosine of each tensor that votes with its counterpart, and its elements.

    What is zero in both models tells nothing, and is left out.
    """
    found = {}
    for tensor in bound.tensors:
        if tensor.votes:
            x, y = (tensor.load(source).double().flatten() for source in (a, b))
            mine, theirs = float(x.norm()), float(y.norm())
            if mine or theirs:
                cosine = float(x @ y) / (mine * theirs) if mine and theirs else 0.0
                found[tensor.members[0]] = cosine, x.numel()
    return found


class Shuffled(Derived):
    """A model with the entries of each block that votes in a random order: a seed says which."""

    def __init__(self, source: TensorSource, bound: BoundSpec, seed: int) -> None:
        super().__init__(source)
        self._places = {
            name: (tensor, position, seed + number)
            for number, tensor in enumerate(bound.tensors)
            if tensor.votes
            for position, name in enumerate(tensor.members)
        }

    def load(self, name: str) -> Tensor:
        if name not in self._places:
            return super().load(name)
        tensor, position, seed = self._places[name]
        generator = torch.Generator().manual_seed(seed)
        values = tensor.load(self._source).clone()
        for block in tensor.blocks:
            view = block.view(values)
            order = torch.randperm(view.numel(), generator=generator)
            view.copy_(view.reshape(-1)[order].reshape(view.shape))
        return values[position] if tensor.stacked else values

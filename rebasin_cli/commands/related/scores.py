"""How near the matrices of two models are once nothing that a function leaves free is between them.

Of each matrix the cosine with its counterpart, and the null value: what the same search comes to
where nothing is to be found. For it each block of the second model is moved by random maps of its
own: it keeps its spectrum and the distribution of its values, and no map of the groups puts all of
them in order again. The excess, (cosine - null) / (1 - null), is 0 for what has nothing in common
and 1 for a copy. Matching does the "assignment" of AWM (arXiv 2510.06738, section 3), and the
cosine of what has no basis inside heads stands where AWM has the unbiased CKA, which is invariant
to such bases as well; the null value, that CKA takes off for independent entries, is measured here,
since what a search finds in noise grows with its freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.commands.related.gauge_free import GaugeFree, matrices_of
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.maps import Carried, GroupMaps, carry
from rebasin_cli.symmetry.norm_folding import FoldedNorms, FoldPlan
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.tensors.ranges import Kept

COPIES = 6  # of a model in float64 at once: two, what is moved, and what a search holds
WORD = torch.float64.itemsize
# Share of the objective that a sweep has to gain: maps of a copy are then right to 1e-5.
RISE = 1e-9
# A matrix of a copy with noise as long as itself comes to .5 and more; of networks trained apart
# the nearest, a head of 10 classes, comes to .45 (tests/benchmarks/related_or_not.py).
KEPT = 0.5
FOREIGN = 0.2  # a matrix below it comes from elsewhere


@dataclass(frozen=True)
class MatrixScore:
    """How near one matrix is to its counterpart: the cosine, the null value, its elements."""

    name: str
    cosine: float
    null: float
    elements: int

    @property
    def excess(self) -> float:
        return excess(self.cosine, self.null)

    @property
    def kept(self) -> bool:
        """Whether the matrix descends from its counterpart."""
        return self.excess >= KEPT


@dataclass(frozen=True)
class Nearness:
    """The scores of all matrices of two models, and the maps that they were found by.

    maps: of the second model, which was folded before if they rotate.
    """

    matrices: tuple[MatrixScore, ...]
    maps: GroupMaps

    @property
    def cosine(self) -> float:
        return self._mean([matrix.cosine for matrix in self.matrices])

    @property
    def null(self) -> float:
        return self._mean([matrix.null for matrix in self.matrices])

    @property
    def excess(self) -> float:
        """The mean excess: matrices count by their elements."""
        return excess(self.cosine, self.null)

    @property
    def kept(self) -> float:
        """The share of elements in matrices that descend from their counterparts."""
        return self._mean([float(matrix.kept) for matrix in self.matrices])

    @property
    def foreign(self) -> float:
        """The share of elements in matrices that have nothing to do with their counterparts."""
        return self._mean([float(matrix.excess < FOREIGN) for matrix in self.matrices])

    def _mean(self, values: list[float]) -> float:
        total = sum(matrix.elements for matrix in self.matrices)
        pairs = zip(values, self.matrices, strict=True)
        return sum(value * matrix.elements for value, matrix in pairs) / total


def excess(cosine: float, null: float) -> float:
    """Return what of the way from the null value to 1 a cosine has come."""
    return (cosine - null) / max(1 - null, 1e-12)


@dataclass(frozen=True)
class Frame:
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


def frame_of_orders(bound: BoundSpec, movable: frozenset[str]) -> Frame:
    """Return the frame of permutations."""
    return Frame(bound, dict.fromkeys(bound.groups, PERMUTATION), movable, None)


def frame_of_rotations(plan: FoldPlan) -> Frame:
    """Return the frame of rotations of folded streams, and all that goes with them."""
    return Frame(plan.moving, plan.classes, None, plan)


Search = Callable[[TensorSource, TensorSource], GroupMaps]


def measure_nearness(
    a: TensorSource,
    b: TensorSource,
    frame: Frame,
    settings: Settings,
    progress: Progress,
) -> Nearness:
    """Return how near two models are. Raises NotFiniteError."""
    matrices = replace(frame, bound=matrices_of(frame.bound))
    free = [_held(_free(model, matrices), matrices.bound, settings) for model in (a, b)]
    search = _search(matrices, settings, progress)
    maps = search(*free)
    scattered = Scattered(free[1], matrices, settings.seed)
    null = cosines(free[0], matrices.moved(scattered, search(free[0], scattered)), matrices.bound)
    found = cosines(free[0], matrices.moved(free[1], maps), matrices.bound)
    scores = [
        MatrixScore(name, cosine, null[name][0], elements)
        for name, (cosine, elements) in found.items()
    ]
    return Nearness(tuple(scores), maps)


def _free(model: TensorSource, frame: Frame) -> TensorSource:
    return GaugeFree(frame.folded(model), frame.bound, frame.classes)


def _held(source: TensorSource, bound: BoundSpec, settings: Settings) -> TensorSource:
    """Return a source that keeps what it makes, if there is room for it."""
    voting = sum(source.info(n).numel for t in bound.tensors if t.votes for n in t.members)
    return Kept(source) if COPIES * WORD * voting <= settings.max_memory else source


def _search(frame: Frame, settings: Settings, progress: Progress) -> Search:
    """Return what finds the maps that bring a model next to another."""

    def by_orders(a: TensorSource, b: TensorSource) -> GroupMaps:
        found = match_weights(
            a, b, frame.bound, settings=settings, movable=frame.movable, progress=progress
        )
        return GroupMaps(found.permutations, {})

    def by_rotations(a: TensorSource, b: TensorSource) -> GroupMaps:
        return match_maps(
            a,
            b,
            frame.bound,
            frame.classes,
            rise=RISE,
            max_memory=settings.max_memory,
            device=settings.device,
            progress=progress,
        ).maps

    return by_orders if frame.folding is None else by_rotations


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


class Scattered(Derived):
    """A model with each block that votes moved by random maps of its own. Same seed, same tensors.

    All of its axes that groups own are moved, so that no block says anything of another.
    """

    def __init__(self, source: TensorSource, frame: Frame, seed: int) -> None:
        super().__init__(source)
        self._frame = frame
        self._places = {
            name: (tensor, position, seed + number)
            for number, tensor in enumerate(frame.bound.tensors)
            if tensor.votes
            for position, name in enumerate(tensor.members)
        }

    def load(self, name: str) -> Tensor:
        if name not in self._places:
            return super().load(name)
        tensor, position, seed = self._places[name]
        generator = torch.Generator().manual_seed(seed)
        values = tensor.load(self._source)
        for block in tensor.blocks:
            here = replace(tensor, blocks=(block,))
            values = carry(values, here, self._draw(here, generator))
        return values[position] if tensor.stacked else values

    def _draw(self, tensor: BoundTensor, generator: torch.Generator) -> GroupMaps:
        groups = self._frame.bound.groups
        names = dict.fromkeys(name for block in tensor.blocks for name in block.groups if name)
        return draw_maps((groups[name] for name in names), self._frame.classes, generator)

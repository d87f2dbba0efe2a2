"""Carrying out `rebasin related`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import torch

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.related.base_merges import (
    Gram,
    exact_merges,
    gram_of,
    kept_entries,
)
from rebasin_cli.commands.related.convex_means import Merge, convex_merges
from rebasin_cli.commands.related.copies import (
    SAME_WEIGHTS,
    Marks,
    Stored,
    compare_stored,
    marks_of,
    may_be_reordered,
)
from rebasin_cli.commands.related.frames import PairFrame, cut_short
from rebasin_cli.commands.related.kin import UNCLEAR, Kin, KinPair, is_swapped, kin_of
from rebasin_cli.commands.related.nearness import Nearness, measure_nearness
from rebasin_cli.commands.related.plan import RelatedPlan
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.merging.sources import Finite
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.maps import NO_MAPS, GroupMaps
from rebasin_cli.tensors import TensorSource, dtype_name
from rebasin_cli.tensors.compare import same_bits

HIDDEN = 10  # times what rounding makes of a copy: scales and rotations make more


@dataclass(frozen=True)
class Kinship:
    """What some models are to each other: all pairs, and which are merges of others."""

    models: tuple[Path, ...]
    pairs: tuple[KinPair, ...]
    merges: tuple[Merge[Path], ...]

    def pair(self, a: int, b: int) -> KinPair:
        """Return the pair of two models, by their numbers."""
        low, high = sorted((a, b))
        size = len(self.models)
        return self.pairs[low * size - low * (low + 1) // 2 + high - low - 1]


@dataclass(frozen=True)
class ComparedPair:
    """A pair, and how its second model comes next to the first: by its order, and by rotation."""

    pair: KinPair
    orders: GroupMaps
    rotations: GroupMaps | None


Outcome = KinPair | Merge[Path] | Kinship


def run_related(plan: RelatedPlan, progress: Progress) -> Iterator[Outcome]:
    """Yield what each pair of models is to each other, then which are merges, then all of it."""
    comparison = _Comparison(plan, progress)
    found: dict[tuple[int, int], ComparedPair] = {}
    for numbers in plan.pairs:
        began = perf_counter()
        compared = comparison.compare(*numbers)
        pair = replace(compared.pair, seconds=perf_counter() - began)
        found[numbers] = replace(compared, pair=pair)
        yield pair
    merges = tuple(comparison.merges(found))
    yield from merges
    paths = tuple(model.path for model in plan.problem.models)
    yield Kinship(paths, tuple(each.pair for each in found.values()), merges)


class _Comparison:
    """Models that are compared pair by pair; what is known of one is looked for once."""

    def __init__(self, plan: RelatedPlan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._models = plan.problem.models
        self._finite = [_finite(model, plan) for model in self._models]
        self._marks: dict[int, Marks] = {}

    def compare(self, first: int, second: int) -> ComparedPair:
        """Return what two models are to each other: the cheapest question first."""
        a, b = self._models[first], self._models[second]
        self._progress("comparing tensors", 0, 0)
        if all(same_bits(a.load(name), b.load(name)) for name in self._plan.names):
            same = a.sha256() == b.sha256() if a.files and b.files else False
            kin = Kin.SAME_BYTES if same else Kin.SAME_TENSORS
            return ComparedPair(KinPair(a.path, b.path, kin), NO_MAPS, NO_MAPS)
        copied = self._reordered(first, second)
        return copied or self._scored(first, second)

    def _reordered(self, first: int, second: int) -> ComparedPair | None:
        """Return what two models are where one is the other in another order, rounded or not."""
        a, b = self._finite[first], self._finite[second]
        if not may_be_reordered(a, b, self._stacks()):
            return None
        orders = self._matched(first, second)
        pair = self._stored_pair(first, second, orders)
        if pair.stored and pair.stored.equal:
            return ComparedPair(pair, orders, None)
        if pair.stored and pair.stored.rounded:
            return ComparedPair(replace(pair, kin=Kin.ROUNDED), orders, None)
        return None

    def _stacks(self) -> list[Sequence[str]]:
        """Return the names of all tensors: together where they may change places."""
        stacked = [t.members for t in self._plan.orders.bound.tensors if t.stacked]
        inside = {name for names in stacked for name in names}
        alone = [(name,) for name in self._plan.names if name not in inside]
        chosen = set(self._plan.names)
        return [*alone, *(names for names in stacked if chosen.issuperset(names))]

    def _stored_pair(self, first: int, second: int, orders: GroupMaps) -> KinPair:
        """Return two models with how they differ as stored, the second in an order."""
        a, b = self._models[first], self._models[second]
        moved = sum(p.moved for p in orders.permutations.values())
        stored = self._stored(self._plan.orders, first, second, orders)
        return KinPair(a.path, b.path, Kin.PERMUTED, moved, stored, dtype=_coarser(a, b))

    def _scored(self, first: int, second: int) -> ComparedPair:
        """Return what two models are to each other, one being no other order of the other."""
        frame = self._plan.rotations or self._plan.orders
        ordered = cache(partial(self._matched, first, second))
        near = self._nearness(frame, first, second, ordered)
        rotations = near.maps if frame.folding else None
        orders = self._orders(near, (first, second), ordered)
        pair = replace(self._stored_pair(first, second, orders), nearness=near)
        copied = self._copied(frame, (first, second), pair, near)
        if copied:
            return ComparedPair(replace(pair, kin=copied), orders, rotations)
        marks = self._marks_of(first), self._marks_of(second)
        assert pair.stored
        kin = kin_of(pair.stored, near, marks)
        found = replace(pair, kin=kin, marks=marks, swapped=is_swapped(kin, marks))
        return ComparedPair(found, orders, rotations)

    def _orders(
        self, near: Nearness, numbers: tuple[int, int], found: Callable[[], GroupMaps]
    ) -> GroupMaps:
        """Return the order of the second model in which both are compared as stored.

        What matrices without scales say of it is improved where that may be. found: the order where
        the models were rotated.
        """
        if near.maps is NO_MAPS:
            return NO_MAPS
        if near.maps.linear:
            return found()
        sure = near.settled or near.excess < UNCLEAR
        return near.maps if sure else self._matched(*numbers, near.maps)

    def _matched(self, first: int, second: int, begin: GroupMaps | None = None) -> GroupMaps:
        """Return the order of the second model, as stored. begin: where to descend from.

        Buffers vote here, as in `rebasin verify`.
        """
        plan = self._plan
        selects = plan.selection.selects
        settings = plan.problem.machine.settings(plan.search)
        found = match_weights(
            self._finite[first],
            self._finite[second],
            plan.orders.bound.with_votes(lambda tensor: all(map(selects, tensor.members))),
            settings=cut_short(settings) if plan.orders.costly else settings,
            movable=plan.orders.movable,
            initial=begin.permutations if begin else None,
            labels=(str(self._models[first].path), str(self._models[second].path)),
            progress=self._progress,
        )
        return GroupMaps(found.permutations, {})

    def _stored(self, frame: PairFrame, first: int, second: int, maps: GroupMaps) -> Stored:
        a, b = (frame.folded(self._finite[number]) for number in (first, second))
        return compare_stored(a, frame.moved(b, maps), self._plan.names)

    def _copied(
        self, frame: PairFrame, numbers: tuple[int, int], pair: KinPair, near: Nearness
    ) -> Kin | None:
        """Return what hides that one model is a copy of the other, if it is one.

        Nothing hides models that are near as they are stored: one was trained a little.
        """
        allowed = _allowed(*(self._models[number] for number in numbers))
        if (pair.stored and pair.stored.distance <= HIDDEN * allowed) or not near.matrices:
            return None
        if any(1 - matrix.cosine > allowed**2 for matrix in near.matrices):
            return None
        if frame.folding and self._stored(frame, *numbers, near.maps).largest <= allowed:
            return Kin.ROTATED
        return Kin.RESCALED

    def _nearness(
        self, frame: PairFrame, first: int, second: int, orders: Callable[[], GroupMaps]
    ) -> Nearness:
        machine = self._plan.problem.machine
        machine = machine.for_maps if frame.folding else machine
        settings = machine.settings(self._plan.search)
        a, b = self._finite[first], self._finite[second]
        return measure_nearness(a, b, frame, settings, self._progress, orders=orders)

    def _marks_of(self, number: int) -> Marks:
        if number not in self._marks:
            self._marks[number] = marks_of(self._finite[number], self._plan.matrices)
        return self._marks[number]

    def merges(self, found: Mapping[tuple[int, int], ComparedPair]) -> Iterator[Merge[Path]]:
        """Yield the merges among models that are related to one another."""
        self._progress("looking for merges", 0, 0)
        names = [n for n in self._plan.names if self._models[0].info(n).floating]
        for family in related_families(found, len(self._models)):
            frame, sources = self._in_one_frame(family, found)
            steps = [_coarsest(self._models[number]) for number in family]
            gram = gram_of([frame.folded(sources[0]), *sources[1:]], names, steps)
            paths = [self._models[number].path for number in family]
            yield from (merge.named(paths) for merge in merges_in(gram))

    def _in_one_frame(
        self, family: list[int], found: Mapping[tuple[int, int], ComparedPair]
    ) -> tuple[PairFrame, list[TensorSource]]:
        """Return related models next to the first of them: in its order, unless one is rotated."""
        first, *others = family
        pairs = [found[first, other] for other in others]
        rotated = any(_is_rotated(each) for each in pairs)
        frame = self._plan.rotations if rotated and self._plan.rotations else self._plan.orders
        maps = [each.rotations or each.orders if rotated else each.orders for each in pairs]
        moved = [
            frame.moved(frame.folded(self._finite[other]), each)
            for other, each in zip(others, maps, strict=True)
        ]
        return frame, [self._finite[first], *moved]


def merges_in(gram: Gram) -> list[Merge[int]]:
    """Return the merges among models in one frame, each model once: what is exact comes first."""
    exact = exact_merges(gram)
    found = {merge.model: merge for merge in exact}
    left = [model for model in gram.distinct if model not in found]
    for merge in (*convex_merges(gram.products, left), *kept_entries(gram, left)):
        found.setdefault(merge.model, merge)
    return sorted(found.values(), key=lambda merge: merge.model)


def related_families(
    found: Mapping[tuple[int, int], ComparedPair], size: int
) -> Iterator[list[int]]:
    """Yield the models, three or more, that are related to the first of them, by number."""
    left = list(range(size))
    while left:
        first, *others = left
        related = [other for other in others if found[first, other].pair.kin.related]
        if len(related) > 1:
            yield [first, *related]
        left = [other for other in others if other not in related]


def _is_rotated(compared: ComparedPair) -> bool:
    """Return whether a model is nearer once it is rotated than in any order of its units."""
    near, stored = compared.pair.nearness, compared.pair.stored
    if compared.rotations is None or near is None or stored is None:
        return False
    return stored.distance**2 > 2 * (1 - near.cosine) + 0.5


def _finite(model: Checkpoint, plan: RelatedPlan) -> TensorSource:
    return Finite(model, str(model.path), "repair the checkpoint", plan.selection.selects)


def _allowed(a: Checkpoint, b: Checkpoint) -> float:
    """Return how far apart a copy may be, as a share of its length: by its coarser dtype."""
    return max(SAME_WEIGHTS, _coarsest(a), _coarsest(b))


def _coarsest(model: Checkpoint) -> float:
    """Return the rounding step of the coarsest dtype of a model."""
    return max(torch.finfo(dtype).eps for dtype in _dtypes(model))


def _coarser(a: Checkpoint, b: Checkpoint) -> str:
    dtypes = [*_dtypes(a), *_dtypes(b)]
    return dtype_name(max(dtypes, key=lambda dtype: torch.finfo(dtype).eps))


def _dtypes(model: Checkpoint) -> list[torch.dtype]:
    infos = (model.info(name) for name in model.names())
    return [info.dtype for info in infos if info.floating] or [torch.float64]

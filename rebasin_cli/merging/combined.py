"""Models that are combined in other ways than by their mean, tensor by tensor, as they are read.

Where every model can be read in ranges, they are mixed range by range: no tensor is held. Else the
tensors of one model after the other are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from rebasin_cli.merging.combination import ARC, STOCK, Combination
from rebasin_cli.merging.deltas import STEP_RULES, Delta
from rebasin_cli.merging.mean import lerp, spherical_weights, weighted_mean, wide_dtype
from rebasin_cli.merging.products import products_of_ranges, products_of_wholes
from rebasin_cli.merging.sources import Mean
from rebasin_cli.merging.weights import TensorWeights
from rebasin_cli.merging.whole_numbers import check_equal_where_no_mean
from rebasin_cli.tensors import RUNNING_STATISTICS, Derived, TensorSource
from rebasin_cli.tensors.derived import Gathered
from rebasin_cli.tensors.numbers import in_reals, of_reals
from rebasin_cli.tensors.ranges import IN_CACHE, Ranged, join_ranges, ranges_in_memory, ranges_of

# Of BatchNorm: a variance that differences are added to may fall below zero.

_Opens = Sequence[Callable[[], Ranged]]  # see `Delta`


class OnArcs(Derived):
    """A TensorSource whose floating tensors are spherical means, statistics of norms plain ones.

    What has no mean, and what one model alone has a weight for, is treated as `Mixed` does.
    """

    def __init__(
        self,
        models: Sequence[TensorSource],
        weights: Sequence[float],
        reference: int,
        selects: Callable[[str], bool],
    ) -> None:
        self._mean = Mean(models, weights, reference, selects)
        super().__init__(self._mean)
        self._live = [pair for pair in zip(models, weights, strict=True) if pair[1]]

    def load(self, name: str) -> Tensor:
        if not self._turns(name):
            return super().load(name)
        read = self.ranged(name)
        if read is not None:
            return join_ranges(read, self.info(name).shape)
        sources = [source for source, _ in self._live]
        products = products_of_wholes(_loaded(name, sources), self.info(name).numel)
        tensors = (source.load(name) for source in sources)
        return self._mix(tensors, spherical_weights(products, self._weights))

    def ranged(self, name: str) -> Ranged | None:
        reads = _all_ranges(name, [source for source, _ in self._live])
        if not self._turns(name) or reads is None:
            return ranges_of(self._mean, name)
        products = products_of_ranges(reads, self.info(name).numel)
        found = spherical_weights(products, self._weights)
        return lambda begin, end: self._mix((read(begin, end) for read in reads), found)

    def _turns(self, name: str) -> bool:
        statistic = name.endswith(RUNNING_STATISTICS)
        return not statistic and len(self._live) > 1 and self._mean.mixes(name)

    @property
    def _weights(self) -> list[float]:
        return [weight for _, weight in self._live]

    def _mix(self, tensors: Iterable[Tensor], found: Sequence[float] | None) -> Tensor:
        """Return what tensors come to, or one range of each. found: see `spherical_weights`."""
        if found is None:
            return weighted_mean(tensors, self._weights)
        # weighted_mean divides by the sum of what it is given
        return weighted_mean(tensors, found).mul_(sum(found))


class FromBase(Derived):
    """A TensorSource that is a base moved by what models have learnt since, see `STEP_RULES`.

    In float32, or float64 if one of them is. Statistics of norms go along the line from the base to
    the mean of the models, by the size of their weights, as far as the sum of all differences
    would, and not beyond it. What has no mean is treated as `Mixed` does, the base the reference.
    """

    def __init__(
        self,
        base: TensorSource,
        models: Sequence[TensorSource],
        weights: Sequence[float],
        combination: Combination,
        selects: Callable[[str], bool],
    ) -> None:
        sizes = [*map(abs, weights), 0.0]
        self._mean = Mean([*models, base], sizes, len(models), selects)
        super().__init__(self._mean)
        self._base, self._combination = base, combination
        self._reach = combination.reach(tuple(weights))
        numbered = enumerate(zip(models, weights, strict=True))
        self._live = [(number, *pair) for number, pair in numbered if pair[1]]

    def load(self, name: str) -> Tensor:
        if not self._mean.mixes(name):
            return super().load(name)
        if self._interpolates(name):
            return lerp(self._base.load(name), super().load(name), self._reach)
        info, read = self.info(name), self.ranged(name)
        if read is not None:
            return join_ranges(read, info.shape)
        base = ranges_in_memory(self._base.load(name))
        opens = _loaded(name, [source for _, source, _ in self._live])
        moved = self._moved(name, base, opens, in_ranges=False)
        return moved(0, info.numel).reshape(info.shape)

    def ranged(self, name: str) -> Ranged | None:
        if not self._mean.mixes(name):
            return ranges_of(self._mean, name)
        reads = _all_ranges(name, [self._base, *(source for _, source, _ in self._live)])
        if self._interpolates(name) or reads is None:
            return None
        base, *models = reads
        opens = [partial(_itself, read) for read in models]
        return self._moved(name, base, opens, in_ranges=True)

    def _interpolates(self, name: str) -> bool:
        return name.endswith(RUNNING_STATISTICS) and self._combination.combine != STOCK

    def _moved(self, name: str, base: Ranged, opens: _Opens, *, in_ranges: bool) -> Ranged:
        """Return how ranges are read of the base with a step added."""
        info, dtype = self._base.info(name), self._dtype(name)
        start = _in_reals(base, info.dtype, dtype)
        deltas = [
            Delta(
                name,
                number,
                weight,
                info.reals,
                dtype,
                partial(_difference, opened, start, info.dtype, dtype),
                in_ranges,
            )
            for (number, _, weight), opened in zip(self._live, opens, strict=True)
        ]
        step = STEP_RULES[self._combination.combine](deltas, self._combination)
        each, scale = _reals_of(info.dtype), self._combination.scale

        def moved(begin: int, end: int) -> Tensor:
            values = step(begin * each, end * each).mul_(scale)
            for first in range(0, len(values), IN_CACHE):
                part = values[first : first + IN_CACHE]
                place = begin * each + first
                part.add_(start(place, place + len(part)))
            return of_reals(values.view(-1, 2), info.dtype) if each == 2 else values

        return moved

    def _dtype(self, name: str) -> torch.dtype:
        """Return the real dtype to compute in."""
        sources = (self._base, *(source for _, source, _ in self._live))
        kinds = (wide_dtype(source.info(name).dtype).to_real() for source in sources)
        return reduce(torch.promote_types, kinds)


def combine_models(
    sources: Sequence[TensorSource],
    reference: int,
    weights: TensorWeights,
    combination: Combination,
    selects: Callable[[str], bool],
) -> TensorSource:
    """Return what models in one frame come to.

    sources: the models that have a weight; where they are compared with a base, that behind them.
    reference: which of them all others are aligned to. Raises CheckpointError for whole numbers
    that differ.
    """
    made: dict[tuple[float, ...], TensorSource] = {}
    for own in weights.distinct:

        def chosen(name: str, own: tuple[float, ...] = own) -> bool:
            return selects(name) and weights.of(name) == own

        if any(own):
            check_equal_where_no_mean(sources[: len(own)], own, chosen)
        made[own] = _combined(sources, reference, own, combination, selects)
    if len(made) == 1:
        return made[weights.models]
    names = sources[0].names()
    return Gathered({name: (made[weights.of(name)], name) for name in names})


def _combined(
    sources: Sequence[TensorSource],
    reference: int,
    weights: tuple[float, ...],
    combination: Combination,
    selects: Callable[[str], bool],
) -> TensorSource:
    if not combination.from_base:
        kind = OnArcs if combination.combine == ARC else Mean
        return kind(sources, weights, reference, selects)
    *models, base = sources
    if not any(weights):
        return base
    return FromBase(base, models, weights, combination, selects)


def _all_ranges(name: str, sources: Sequence[TensorSource]) -> list[Ranged] | None:
    """Return how ranges of a tensor are read in all sources; None: not in all of them."""
    reads = [ranges_of(source, name) for source in sources]
    known = [read for read in reads if read is not None]
    return known if len(known) == len(reads) else None


def _itself(read: Ranged) -> Ranged:
    return read


def _loaded(name: str, sources: Sequence[TensorSource]) -> _Opens:
    """Return what loads the tensor of each source, to be read in ranges."""
    return [partial(_load, source, name) for source in sources]


def _load(source: TensorSource, name: str) -> Ranged:
    return ranges_in_memory(source.load(name))


def _reals_of(dtype: torch.dtype) -> int:
    return 2 if dtype.is_complex else 1


def _in_reals(read: Ranged, stored: torch.dtype, dtype: torch.dtype) -> Ranged:
    """Return how ranges of the reals of a tensor are read, in another dtype."""
    each = _reals_of(stored)

    def reals(begin: int, end: int) -> Tensor:
        first = begin // each
        found = in_reals(read(first, -(-end // each))).reshape(-1)
        return found[begin - first * each : end - first * each].to(dtype)

    return reals


def _difference(
    opened: Callable[[], Ranged], start: Ranged, stored: torch.dtype, dtype: torch.dtype
) -> Ranged:
    """Return how ranges of a model's difference to the base are read. start: its reals."""
    values = _in_reals(opened(), stored, dtype)
    return lambda begin, end: values(begin, end) - start(begin, end)

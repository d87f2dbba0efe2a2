"""Models that are combined in other ways than by their mean, tensor by tensor, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from rebasin_cli.merging.arcs import spherical_mean
from rebasin_cli.merging.combination import ARC, STOCK, Combination
from rebasin_cli.merging.deltas import STEP_RULES, Delta
from rebasin_cli.merging.mean import lerp, wide_dtype
from rebasin_cli.merging.sources import Mean
from rebasin_cli.merging.weights import TensorWeights
from rebasin_cli.merging.whole import check_equal_where_no_mean
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.derived import Gathered
from rebasin_cli.tensors.numbers import in_reals, of_reals

# Of BatchNorm: a variance that differences are added to may fall below zero.
STATISTICS = ("running_mean", "running_var")


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
        if name.endswith(STATISTICS) or len(self._live) == 1 or not self._mean.mixes(name):
            return super().load(name)
        tensors = [source.load(name) for source, _ in self._live]
        return spherical_mean(tensors, [weight for _, weight in self._live])


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
        base = self._base.load(name)
        if name.endswith(STATISTICS) and self._combination.combine != STOCK:
            return lerp(base, super().load(name), self._reach)
        dtype = self._dtype(name)
        start = in_reals(base).to(dtype)
        rule = STEP_RULES[self._combination.combine]
        step = rule(self._deltas(name, start), self._combination)
        return of_reals(step.mul_(self._combination.scale).add_(start), base.dtype)

    def _deltas(self, name: str, base: Tensor) -> Iterator[Delta]:
        for number, source, weight in self._live:
            values = in_reals(source.load(name)).to(base.dtype) - base
            yield Delta(name, number, weight, values)

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

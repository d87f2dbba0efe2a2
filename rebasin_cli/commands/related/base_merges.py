"""Which of several related models is made of others, to rounding, or of entries of fine-tunes.

All in one frame. Task arithmetic (arXiv 2212.04089): M = Z + sum c_i (T_i - Z), with nothing left
but the rounding of M; where one model lies between the others it is their mean. Otherwise the same
points have such a relation whichever of them is called base, and no weights tell which was made
last: the first that is given counts as the base, the last as the merge.
TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) keep a share of the entries of each difference:
where one fine-tune alone is kept, M - Z is its difference times one number, the same for all
entries. Ratios of differences that have nothing to do with one another have no such number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from rebasin_cli.commands.related.convex_means import COPY, Merge
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import in_widest
from rebasin_cli.tensors.numbers import in_reals

LEAST = 0.05  # a coefficient, below which a fine-tune has no part
ROUNDINGS = 4  # of M, by half a step of its dtype each: a merge is computed in several steps
CLEAR = 0.1  # of |M - Z|: where rounding hides more than that nothing is certain
MOST = 20_000  # sets of models of one size that are looked at
SAMPLED, AT_ONCE = 1 << 14, 1 << 18  # entries of all tensors that are looked at, and at once
FEWEST = 1000  # entries that differ clearly, below which nothing is said
SAME = 2e-3  # of an entry of M - Z: rounding steps of M have to be less
BIN = 0.01  # of the logarithm of a ratio
HALF = 0.5  # of |M - Z|^2


@dataclass(frozen=True)
class Gram:
    """Inner products of the differences of models to the first, (n, n), and entries of all.

    roundings: of each model, what storing it may have changed of its length. entries: (n, k), of
    all tensors. steps: of each model, the rounding step of its dtype.
    """

    products: Tensor
    roundings: Sequence[float]
    entries: Tensor
    steps: Sequence[float]

    def from_model(self, base: int) -> Tensor:
        """Return the inner products of the differences to another model."""
        h = self.products
        return h - h[base] - h[:, base, None] + h[base, base]

    @property
    def distinct(self) -> list[int]:
        """The models without copies of those before them."""
        least, kept = COPY**2 * float(self.products.diagonal().max()), list[int]()
        for model in range(len(self.products)):
            distances = self.from_model(model).diagonal()
            if all(float(distances[other]) > least for other in kept):
                kept.append(model)
        return kept


def gram_of(models: Sequence[TensorSource], names: Sequence[str], steps: Sequence[float]) -> Gram:
    """Return what is known of models in one frame. names: of tensors. steps: of their dtypes."""
    size = sum(models[0].info(name).numel for name in names)
    every, count = (size // SAMPLED) | 1, len(models)  # odd: not always in one column
    products, squares = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count).double()
    entries = list[Tensor]()
    for name in names:
        loaded = [in_reals(model.load(name)).flatten() for model in models]
        entries.append(torch.stack([in_widest(values[::every]) for values in loaded]))
        for begin in range(0, len(loaded[0]), AT_ONCE):
            rows = torch.stack([in_widest(values[begin : begin + AT_ONCE]) for values in loaded])
            squares += rows.square().sum(1)
            rows -= rows[0].clone()
            products += rows @ rows.mT
    roundings = [s / 2 * float(v) ** 0.5 for s, v in zip(steps, squares, strict=True)]
    return Gram(products, roundings, torch.cat(entries, 1), steps)


def exact_merges(gram: Gram) -> list[Merge[int]]:
    """Return the merges of which nothing but rounding is left: means, and by task arithmetic.

    The fewest models that are in a relation come first, then those given first, and a merge counts
    for no further one: a second merge of the same models has many relations to the first.
    """
    found, left = list[Merge[int]](), gram.distinct
    for size in range(3, len(left) + 1):
        if comb(len(left), size) > MOST:
            break
        for models in combinations(left, size):
            if not any(merge.model in models for merge in found):
                merge = _exact(gram, models)
                found += [merge] if merge else []
    return found


def _exact(gram: Gram, models: Sequence[int]) -> Merge[int] | None:
    """Return the merge among models, if there is one that none of them could be left out of.

    sum c_i X_i = 0 with sum c_i = 0: a model that has a sign of its own lies between the others.
    """
    first, *others = models
    values, vectors = torch.linalg.eigh(gram.from_model(first)[others][:, others])
    left, weights = max(float(values[0]), 0.0) ** 0.5, vectors[:, 0].tolist()
    by_model = dict(zip(models, (-sum(weights), *weights), strict=True))
    above = [model for model in models if by_model[model] > 0]
    below = [model for model in models if model not in above]
    alone = next((side for side in (above, below) if len(side) == 1), None)
    for model in alone or reversed(others):
        merge = _as_merge(gram, model, by_model, left, None if alone else first)
        if merge:
            return merge
    return None


def _as_merge(
    gram: Gram, model: int, by_model: Mapping[int, float], left: float, base: int | None
) -> Merge[int] | None:
    """Return a relation as what made one of its models, unless more than rounding is left."""
    own = by_model[model]
    if not own:
        return None
    shares = {k: -weight / own for k, weight in by_model.items() if k != model}
    from_it = gram.from_model(model).diagonal()
    size = float(min(from_it[k] for k in shares) if base is None else from_it[base]) ** 0.5
    rest = left / abs(own)
    exact = rest <= min(ROUNDINGS * gram.roundings[model], CLEAR * size)
    if not exact or min(map(abs, shares.values())) < LEAST:
        return None
    if base is not None:
        del shares[base]
    return Merge(model, tuple(shares), tuple(shares.values()), rest / size, base)


def kept_entries(gram: Gram, models: Sequence[int]) -> list[Merge[int]]:
    """Return those of some models that keep entries of others' differences to a base.

    As TIES and DARE make them.
    """
    found: dict[frozenset[int], Merge[int]] = {}
    for base, model in ((a, b) for a in models for b in reversed(models) if a != b):
        others = [k for k in models if k not in (base, model)]
        merge = _kept_over(gram, base, model, others)
        if merge:
            together = frozenset((base, model, *merge.parents))
            found[together] = min(found.get(together, merge), merge, key=lambda m: m.left)
    return list(found.values())


def _kept_over(gram: Gram, base: int, model: int, others: Sequence[int]) -> Merge[int] | None:
    """Return a model as a merge over a base that keeps entries of others, if it is one."""
    values = gram.entries
    change = values[model] - values[base]
    clear = change.abs() * SAME > ROUNDINGS / 2 * gram.steps[model] * values[model].abs()
    change = change[clear]
    if len(change) < FEWEST or len(others) < 2:
        return None
    factors, parts = dict[int, float](), dict[int, Tensor]()
    for other in others:
        theirs = (values[other] - values[base])[clear]
        factors[other] = _commonest_ratio(change, theirs)
        parts[other] = factors[other] * theirs
    alone = _alone({k: _nearly_equal(change, part) for k, part in parts.items()})
    if len(alone) < 2:
        return None
    known = list(alone.values())
    for one, two in combinations([parts[k] for k in alone], 2):
        known += [_nearly_equal(change, one + two), _nearly_equal(change, (one + two) / 2)]
    left = 1 - float(change[torch.stack(known).any(0)].square().sum() / change.square().sum())
    if left > HALF:
        return None
    return Merge(model, tuple(alone), tuple(factors[k] for k in alone), left, base, 1 - left)


def _alone(same: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return masks of the entries that agree with one model alone, if that is often so for it.

    Where one fine-tune was tuned further, entries that were left are those of both.
    """
    often = torch.stack([mask.int() for mask in same.values()]).sum(0)
    return {
        k: mask for k, mask in same.items() if float((mask & (often == 1)).double().mean()) >= LEAST
    }


def _nearly_equal(change: Tensor, theirs: Tensor) -> Tensor:
    return (change - theirs).abs() <= SAME * change.abs()


def _commonest_ratio(change: Tensor, theirs: Tensor) -> float:
    """Return the positive number that most entries of one difference are of those of another."""
    ratios = change / theirs
    ratios = ratios[ratios.isfinite() & (ratios > 0)]
    if not len(ratios):
        return 0.0
    bins = (ratios.log() / BIN).floor()
    kinds, counts = torch.unique(bins, return_counts=True)
    return float(ratios[bins == kinds[counts.argmax()]].median())

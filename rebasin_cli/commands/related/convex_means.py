"""Which of several related models is a merge of others: a point between them, in one frame.

Of a model M and others X_i in one order, the weights w of sum 1, none negative, that minimise
|M - sum w_i X_i|^2 = w' H w, H_ij = <X_i - M, X_j - M>. A merge leaves nothing but rounding, and
where parents are rotated the error of their maps; two fine-tunes and what they began with leave .7
of their distance, since what training changes in one has nothing to do with what it changes in
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from scipy.optimize import nnls
from torch import Tensor

LEFT = 0.3  # of the distance to the nearest parent: maps of rotated ones are found with some noise
LEAST = 0.08  # a share, below which a model is none of the parents
COPY = 1e-5  # of the largest distance, below which two models are one
FLAT = 1e-12  # of the mean of the diagonal: what is less in a direction is rounding


ModelT = TypeVar("ModelT")
NameT = TypeVar("NameT")


@dataclass(frozen=True)
class Merge(Generic[ModelT]):
    """A model that was made of others, all by number or by name.

    shares: of the parents; over a base, what their differences to it are times. left: what they do
    not explain, as a share of the distance to the nearest of them, or to the base; where entries
    of differences are kept, of the square of that. base: what the differences of the parents are
    from; None: it is a mean of them. kept: what entries of the differences explain of it.
    """

    model: ModelT
    parents: tuple[ModelT, ...]
    shares: tuple[float, ...]
    left: float
    base: ModelT | None = None
    kept: float | None = None

    def named(self: Merge[int], names: Sequence[NameT]) -> Merge[NameT]:
        """Return it with names for the numbers of models."""
        parents = tuple(names[parent] for parent in self.parents)
        base = None if self.base is None else names[self.base]
        return Merge(names[self.model], parents, self.shares, self.left, base, self.kept)


def convex_merges(products: Tensor, models: Sequence[int]) -> list[Merge[int]]:
    """Return which of some models lie between others of them.

    products: <X_i - X_0, X_j - X_0> of all models in one frame, (n, n) in float64.
    """
    found = (_merge_of(number, products, models) for number in models)
    return [merge for merge in found if merge is not None]


def _merge_of(number: int, products: Tensor, models: Sequence[int]) -> Merge[int] | None:
    """Return what a model is a merge of, if it is one."""
    from_it = products - products[number] - products[:, number, None] + products[number, number]
    distances = from_it.diagonal()
    others = list(_apart(number, from_it, models))
    if len(others) < 2:
        return None
    h = from_it[others][:, others]
    shares = convex_fit(h)
    chosen = [k for k, share in enumerate(shares.tolist()) if share >= LEAST]
    if len(chosen) < 2:
        return None
    parents = [others[k] for k in chosen]
    nearest = float(distances[parents].min())
    left = max(float(shares @ h @ shares), 0.0)
    if left > LEFT**2 * nearest:
        return None
    return Merge(number, tuple(parents), tuple(shares[chosen].tolist()), (left / nearest) ** 0.5)


def _apart(number: int, from_it: Tensor, models: Sequence[int]) -> Iterator[int]:
    """Yield the models that are no copies of model `number` or of one yielded before."""
    distances = from_it.diagonal()
    least, kept = COPY**2 * float(distances.max()), [number]
    for other in models:
        to = [distances[other] + distances[k] - 2 * from_it[other, k] for k in kept]
        if min(map(float, to)) > least:
            kept.append(other)
            yield other


def convex_fit(h: Tensor) -> Tensor:
    """Return the w of sum 1, none negative, with the least w' H w; h: (n, n), positive.

    It is the x >= 0 of the least x' H x / 2 - sum(x), divided by its sum: both are where H x = 1
    for x > 0 and H x >= 1 elsewhere. With H = R' R that is the least |R x - R'^-1 1|: least squares
    with no factor negative (Lawson and Hanson 1974, "Solving least squares problems", chapter 23).
    """
    values, vectors = torch.linalg.eigh(h)
    roots = values.clamp_min(FLAT * float(h.diagonal().mean())).sqrt()
    found, _ = nnls((roots[:, None] * vectors.T).numpy(), (vectors.sum(0) / roots).numpy())
    return torch.from_numpy(found / found.sum())

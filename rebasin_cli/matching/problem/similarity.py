"""What a chain's order is worth: one number for every pair of units, summed over the sites.

S = sum over sites of A B^T, with A (N, m) the units of the reference as rows, and B those of the
other model, all other chains reordered (Ainsworth et al. 2023, section 3.2: the matrix of the
assignment). The order p is worth the sum over i of S[i, p[i]] = <P, S>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.problem.shared_work import INLINE, add_product
from rebasin_cli.matching.problem.terms import Term
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors.device_memory import zeros_with_room


@dataclass(frozen=True)
class Similarity:
    """Inner products of the units of a chain, the reference's against the other's.

    groups: the chain's, each nested in the one before it. values: (*sizes, *sizes), the
    reference's dimensions first.
    """

    groups: tuple[str, ...]
    values: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def at(self, row: int, column: int) -> Similarity:
        """Return the similarity inside reference unit `row` and other unit `column`."""
        inside = self.values[row].select(len(self.groups) - 1, column)
        return Similarity(self.groups[1:], inside)

    def similarity(self) -> Tensor:
        """Return the (n, n) values of a chain of one group."""
        return self.values

    def in_place(self) -> float:
        """Return the value with every unit where it is, the trace; summed in float64."""
        return float(self.matrix().diagonal().double().sum())

    def rise(self, before: Tensor, after: Tensor) -> float:
        """Return by how much one order of the flattened chain is worth more than another.

        Differences before the sum: rows that did not move are exactly 0, and a small rise is not
        lost in the rounding of two large sums.
        """
        matrix = self.matrix()
        rows = torch.arange(len(matrix), device=matrix.device)
        new, old = (matrix[rows, order.to(matrix.device)].double() for order in (after, before))
        return float((new - old).sum())

    def matrix(self) -> Tensor:
        """Return the values as (N, N), N the number of units of the flattened chain."""
        size = prod(self.values.shape[: len(self.groups)])
        return self.values.reshape(size, size)

    def folded(self, groups: Mapping[str, BoundGroup]) -> Similarity:
        """Return the similarity summed over what never moves, unless something is inside it.

        The first dimension stays: it is the one that is solved for. A unit that stays meets
        itself only: S[i, j] = sum over a of S[i, a, j, a]. From the inside out, since the groups
        are nested: what has nothing left in it may be folded next.
        """
        depth = len(self.groups)
        if depth == 1 or not groups[self.groups[-1]].fixed:
            return self
        inner = self.values.diagonal(dim1=depth - 1, dim2=2 * depth - 1).sum(-1)
        return Similarity(self.groups[:-1], inner).folded(groups)


def sum_similarities(terms: Iterable[Term], pool: Executor = INLINE) -> list[Similarity]:
    """Return the similarity of each chain, from one term at a time.

    Products are added up in place, so that one term and one matrix are held and not one of each
    a block. terms: may be a generator, of nests alone.
    """
    found: dict[tuple[str, ...], Similarity] = {}
    for term in terms:
        *sizes, width = term.reference.shape
        rows, columns = term.reference.reshape(-1, width), term.other.reshape(-1, width)
        if term.groups not in found:
            zeros = zeros_with_room(*sizes, *sizes, like=rows)
            found[term.groups] = Similarity(term.groups, zeros)
        add_product(pool, found[term.groups].matrix(), rows, columns)
    return list(found.values())

"""How sure an assignment is: how far each unit's partner is ahead of the next best unit.

lead[i] = cos(A_i, B_p[i]) - max over j != p[i] of cos(A_i, B_j), at the permutations found. A
partner may be behind (lead < 0): an assignment is best as a whole, and gives a unit up for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.diagnostics.unit_figures import (
    GroupDim,
    UnitSums,
    blocks_that_vote,
    group_dims,
)
from rebasin_cli.matching.problem.result import Margin
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache, is_dense
from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block

AT_ONCE = 1 << 25  # similarities held at a time, of groups inside many parents: 256 MB


def measure_margins(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    permutations: Permutations,
    units: Mapping[str, UnitSums],
    *,
    cache: SimilarityCache | None = None,
    progress: Progress = silent,
) -> dict[str, Margin]:
    """Return the margins of the groups that have one, at the given permutations.

    It takes one (n, n) product for each place of a group, as a visit of the search does, unless
    the similarities of a search are there. Groups with groups that move inside their units have
    none: how alike two heads are depends on the order of dims inside them, which is known for
    partners only.
    """
    moving = {name: p for name, p in permutations.items() if p.moved}
    outer = {p for g in bound.groups.values() if not g.fixed for p in g.parents}
    found: dict[str, Margin] = {}
    for k, group in enumerate(bound.groups.values()):
        progress("how sure each unit is", k, len(bound.groups))
        if group.name not in units or group.name in outer or group.fixed or group.size < 2:
            continue
        family = cache.families.get(group.root) if cache else None
        if cache and family and is_dense(family, bound.groups):
            orders = {chain.groups: chain.order(permutations) for chain in family.chains()}
            similarities = cache.similarities(family, permutations)
            rows = _KeptSimilarity(group, similarities, orders).rows
        else:
            rows = _GroupSimilarity(reference, other, bound, group, moving).rows
        lead = torch.cat(list(_leads(rows, units[group.name], group.size)))
        if len(lead):
            found[group.name] = Margin(float(lead.mean()), float((lead >= 0).double().mean()))
    return found


@dataclass(frozen=True)
class _GroupSimilarity:
    """The similarities of one group's units, given the permutations of all groups."""

    reference: TensorSource
    other: TensorSource
    bound: BoundSpec
    group: BoundGroup
    moving: Permutations

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the (stop - start, n, n) inner products inside some of the group's parents.

        Products are in the working dtype, sums in float64.
        """
        shape = stop - start, self.group.size, self.group.size
        total = torch.zeros(shape, dtype=torch.float64)
        for tensor, blocks in blocks_that_vote(self.bound):
            if self.group.name not in tensor.groups:
                continue
            values = tensor.load(self.reference), tensor.load(self.other)
            for block in blocks:
                a, b = (block.view(v) for v in values)
                moved = gather(b, block.groups, self.moving)
                for place in self._places(block):
                    x, y = (_front(v, place.axes)[start:stop] for v in (a, moved))
                    total += (x @ y.transpose(1, 2)).cpu()
        return total

    def _places(self, block: Block) -> list[GroupDim]:
        return [p for p in group_dims(block, self.bound.groups) if p.group == self.group.name]


@dataclass(frozen=True)
class _KeptSimilarity:
    """The same, from what a search has kept."""

    group: BoundGroup
    similarities: Sequence[Similarity]
    orders: Mapping[tuple[str, ...], Tensor]

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the (stop - start, n, n) inner products inside some of the group's parents."""
        size = self.group.size
        total = torch.zeros(stop - start, size, size, dtype=torch.float64)
        for similarity in self.similarities:
            if self.group.name in similarity.groups:
                total += self._inside(similarity, self.orders[similarity.groups], start, stop)
        return total

    def _inside(self, similarity: Similarity, order: Tensor, start: int, stop: int) -> Tensor:
        """Return the similarities of pairs of units, summed over the dimensions inside them.

        S[i, a, r, i, b, r] with partners in each other's place: parents i, units a and b.
        """
        place, shape = similarity.groups.index(self.group.name), similarity.values.shape
        size, inside = self.group.size, prod(shape[place + 1 : len(similarity.groups)])
        here = slice(start * size * inside, stop * size * inside)
        moved = order[here].to(similarity.values.device)
        square = similarity.matrix()[here].index_select(1, moved)
        each = square.reshape(stop - start, size, inside, stop - start, size, inside)
        return each.diagonal(dim1=0, dim2=3).diagonal(dim1=1, dim2=3).sum(-1).movedim(-1, 0).cpu()


def _front(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Return (parents, n, m): all parents as one dimension, all that is not of the group as one."""
    rest = [k for k in range(values.dim()) if k not in axes]
    moved = values.permute(*axes, *rest)
    return moved.reshape(prod(moved.shape[: len(axes) - 1]), values.shape[axes[-1]], -1)


def _leads(rows: Callable[[int, int], Tensor], sums: UnitSums, size: int) -> Iterator[Tensor]:
    """Yield, for units that are alive in both models, the lead of their partners."""
    reference, other = (v.reshape(-1, size) for v in (sums.reference, sums.other[1]))
    step = max(1, AT_ONCE // size**2)
    for start in range(0, len(reference), step):
        here = slice(start, start + step)
        found = rows(start, min(start + step, len(reference)))
        cosine = _cosines(found, reference[here], other[here])
        # The other model was reordered before the product, so partners are on the diagonal.
        partner = cosine.diagonal(dim1=1, dim2=2).clone()
        cosine.diagonal(dim1=1, dim2=2).fill_(-1)
        yield (partner - cosine.amax(-1))[reference[here] * other[here] > 0]


def _cosines(products: Tensor, reference: Tensor, other: Tensor) -> Tensor:
    """Return cosines for inner products (b, n, n) and squares (b, n); 0 for dead units."""
    scales = (_inverse(reference)[:, :, None], _inverse(other)[:, None, :])
    return products.mul_(scales[0]).mul_(scales[1])


def _inverse(squares: Tensor) -> Tensor:
    return torch.where(squares > 0, squares.rsqrt(), 0)

"""How sure an assignment is: how far each unit's partner is ahead of the next best unit.

lead[i] = cos(A_i, B_p[i]) - max over j != p[i] of cos(A_i, B_j), at the permutations found. A
partner may be behind (lead < 0): an assignment is best as a whole, and gives a unit up for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.diagnostics.unit_figures import GroupDim, UnitSums, places, voting
from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block

AT_ONCE = 1 << 25  # similarities held at a time, of groups inside many parents: 256 MB


@dataclass(frozen=True)
class Margin:
    """How far the partners of a group's units are ahead of all others.

    mean: over units, the cosine with the partner less the best cosine with another unit of the
    other model. nearest: the share of units whose partner is the most similar one.
    """

    mean: float
    nearest: float


def measure_margins(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    permutations: Permutations,
    units: Mapping[str, UnitSums],
) -> dict[str, Margin]:
    """Return the margins of the groups that have one, at the given permutations.

    It takes one (n, n) product for each place of a group, as a visit of the search does. Groups
    with groups that move inside their units have none: how alike two heads are depends on the
    order of dims inside them, which is known for partners only.
    """
    moving = {name: p for name, p in permutations.items() if p.moved}
    outer = {p for g in bound.groups.values() if not g.fixed for p in g.parents}
    found: dict[str, Margin] = {}
    for group in bound.groups.values():
        if group.name not in units or group.name in outer or group.fixed or group.size < 2:
            continue
        similarity = _GroupSimilarity(reference, other, bound, group, moving)
        lead = torch.cat(list(_leads(similarity, units[group.name])))
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
        for tensor, blocks in voting(self.bound):
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
        return [p for p in places(block, self.bound.groups) if p.group == self.group.name]


def _front(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Return (parents, n, m): all parents as one dimension, all that is not of the group as one."""
    rest = [k for k in range(values.dim()) if k not in axes]
    moved = values.permute(*axes, *rest)
    return moved.reshape(prod(moved.shape[: len(axes) - 1]), values.shape[axes[-1]], -1)


def _leads(similarity: _GroupSimilarity, sums: UnitSums) -> Iterator[Tensor]:
    """Yield, for units that are alive in both models, the lead of their partners."""
    size = similarity.group.size
    reference, other = (v.reshape(-1, size) for v in (sums.reference, sums.other[1]))
    step = max(1, AT_ONCE // size**2)
    for start in range(0, len(reference), step):
        here = slice(start, start + step)
        found = similarity.rows(start, min(start + step, len(reference)))
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

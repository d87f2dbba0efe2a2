"""Inner products unit by unit: how alike each unit of one model is to its partner in the other.

For unit i of a group and its partner p[i], sums over all voting blocks in which the group occurs
of A[i] B[p[i]], A[i]^2 and B[p[i]]^2, each over everything else in the block: the cosine of all
incoming and outgoing weights of the two units. One pass, one pair of tensors at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import lgamma, prod, sqrt

import torch
from torch import Tensor

from rebasin_cli.matching.problem.inner_products import AT_ONCE
from rebasin_cli.matching.problem.measure import Measured, Sums, compare_block, measure
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.matching.problem.shared_work import INLINE
from rebasin_cli.permutation import Permutations, gather, parent_axis
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.ranges import IN_CACHE

ROUNDING = 1e-9  # of sums in float64 whose terms come in another order, with room to spare


@dataclass(frozen=True)
class GroupDim:
    """A dimension of a block that a group owns. axes: those of its parents, then its own."""

    group: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class UnitSums:
    """Inner products of the units of one group with their partners, float64 (*parents, n).

    dot: of reference and other, before and after permuting the other. reference, other: of
    each with itself, the other before and after. elements: how many values they were summed of.
    """

    dot: tuple[Tensor, Tensor]
    reference: Tensor
    other: tuple[Tensor, Tensor]
    elements: int

    def cosines(self) -> tuple[Tensor, Tensor]:
        """Return the cosines of matched units before and after; dead units are left out."""
        before, after = (
            _cosines(dot, self.reference, other)
            for dot, other in zip(self.dot, self.other, strict=True)
        )
        return before, after


@dataclass
class Spread:
    """What two models' blocks say about inner products of values in a random order.

    alike: every block has the same sum and the same sum of squares in both, to rounding.
    """

    dot: list[float] = field(default_factory=lambda: [0.0, 0.0])
    reference: float = 0.0
    other: float = 0.0
    mean: float = 0.0
    variance: float = 0.0
    alike: bool = True

    def add(self, count: int, sums: Tensor) -> None:
        """Add a block of `count` values.

        sums: of reference times other before and after, the squares of each, and each itself.
        """
        before, after, xx, yy, x, y = sums.tolist()
        self.dot = [self.dot[0] + before, self.dot[1] + after]
        self.reference += xx
        self.other += yy
        self.mean += x * y / count
        self.variance += max(xx - x * x / count, 0) * max(yy - y * y / count, 0) / count
        room = ROUNDING * max(xx, yy)
        self.alike &= abs(xx - yy) <= room and (x - y) ** 2 <= ROUNDING * count * room

    @property
    def cosine(self) -> Change:
        """The cosine of the two models, each as one vector, before and after."""
        return Change(self.dot[0] / self._scale, self.dot[1] / self._scale)

    def chance(self, orders: float) -> float:
        """Return the cosine that the best of exp(orders) random orders of values would reach.

        It is the largest of as many Gaussians of the mean and variance that random orders have:
        m + s sqrt(2 log N) for N of them, which bounds what is expected of the largest however
        they depend on one another. For a block of c values, y put in a random order, <x, y> has
        the mean sum(x) sum(y) / c and the variance |x - mean|^2 |y - mean|^2 / (c - 1), for which
        c is near enough. That orders move whole units, not single values, is left out.
        """
        return min((self.mean + sqrt(2 * orders * self.variance)) / self._scale, 1.0)

    @property
    def _scale(self) -> float:
        return sqrt(self.reference * self.other) or 1.0


@dataclass(frozen=True)
class ByUnit:
    """Two models unit by unit, and as one vector each over the blocks in which a group occurs.

    chance: the cosine that unrelated values of the same spread would be brought to at most.
    alike: as of `Spread`; True if one is the other in another order.
    """

    units: Mapping[str, UnitSums]
    cosine: Change
    chance: float
    alike: bool


def compare_units(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    permutations: Permutations,
    *,
    pool: Executor = INLINE,
    progress: Progress = silent,
) -> tuple[Measured, ByUnit]:
    """Compare two models, before and after permuting the other, whole and unit by unit.

    One pass over both: their figures as `measure` has them, and those of units.
    """
    tally = _Tally(bound)
    measured = measure(
        reference, other, bound, permutations, compare=tally.compare, pool=pool, progress=progress
    )
    return measured, tally.by_unit(permutations)


@dataclass(frozen=True)
class _BlockSums:
    """What a block adds to the sums of units, (4, *shape) for each place, and its own sums."""

    places: Sequence[GroupDim]
    units: Sequence[Tensor]
    whole: Tensor


class _Tally:
    """The sums of units, block by block; those of a block may come from any thread."""

    def __init__(self, bound: BoundSpec) -> None:
        self._bound = bound
        self._found: dict[int, _BlockSums] = {}

    def compare(self, block: Block, a: Tensor, b: Tensor, moved: Tensor) -> Sums:
        """Add a block to the figures of its units, and return its sums as a whole."""
        if not (block.numel and any(block.groups)):
            return compare_block(a, b, moved)
        self._found[id(block)] = found = _summed(group_dims(block, self._bound.groups), a, b, moved)
        before, after, xx, yy, _, _, *apart = found.whole.tolist()
        return Sums([before, after], apart, xx, yy)

    def by_unit(self, permutations: Permutations) -> ByUnit:
        """Return what all blocks say together, added up in the order of the tensors."""
        groups, spread = self._bound.groups, Spread()
        rows: dict[str, Tensor] = {}
        elements = dict.fromkeys(groups, 0)
        for _, blocks in blocks_that_vote(self._bound):
            for block in blocks:
                found = self._found[id(block)]
                for place, sums in zip(found.places, found.units, strict=True):
                    elements[place.group] += block.numel
                    rows[place.group] = rows[place.group] + sums if place.group in rows else sums
                spread.add(block.numel, found.whole[:6])
        moving = {name: p for name, p in permutations.items() if p.moved}
        return ByUnit(
            units={
                name: _sums(row, groups[name], moving, elements[name]) for name, row in rows.items()
            },
            cosine=spread.cosine,
            chance=spread.chance(_orders(groups[name] for name in rows)),
            alike=spread.alike,
        )


def blocks_that_vote(bound: BoundSpec) -> Iterator[tuple[BoundTensor, list[Block]]]:
    """Yield the voting tensors with their blocks in which a group occurs."""
    for tensor in bound.tensors:
        blocks = [block for block in tensor.blocks if block.numel and any(block.groups)]
        if tensor.votes and blocks:
            yield tensor, blocks


def group_dims(block: Block, groups: Mapping[str, BoundGroup]) -> list[GroupDim]:
    """Return every dimension of a block that a group owns, with those of the group's parents."""
    owners = block.groups
    return [
        GroupDim(name, (*(parent_axis(owners, axis, p) for p in groups[name].parents), axis))
        for axis, name in enumerate(owners)
        if name
    ]


def _orders(groups: Iterable[BoundGroup]) -> float:
    """Return the logarithm of the number of orders that the groups allow.

    log n! for each group and each unit of its parents; the number itself overflows any float.
    """
    return sum(
        prod(group.shape[:-1]) * lgamma(group.size + 1) for group in groups if not group.fixed
    )


def _summed(found: Sequence[GroupDim], a: Tensor, b: Tensor, moved: Tensor) -> _BlockSums:
    """Return the sums of a block: as `Spread.add` takes them, and the squared distances."""
    # Summed where the blocks are, for which the CPU waits once; mps has no float64.
    here = torch.device("cpu") if a.is_mps else a.device
    whole = torch.zeros(8, dtype=torch.float64, device=here)
    units = [whole.new_zeros(4, *(a.shape[k] for k in p.axes)) for p in found]
    for axis, start, (x, y, z) in _pieces(a, b, moved):
        still, dot, apart = z is y, x * y, _square(x - y)
        products = (dot, dot if still else x * z, x * x, y * y)
        for place, total in zip(found, units, strict=True):
            kept = torch.stack([_kept(v, place.axes) for v in products]).to(here)
            own = 1 + place.axes.index(axis) if axis in place.axes else 0
            part = total.narrow(own, start, x.shape[axis]) if own else total
            part += kept
        whole[:4] += kept.flatten(1).sum(1)
        whole[4:] += torch.stack([x.sum(), y.sum(), apart, apart if still else _square(x - z)]).to(
            here
        )
    return _BlockSums(found, [total.cpu() for total in units], whole.cpu())


def _square(values: Tensor) -> Tensor:
    return values.square_().sum()


def _pieces(
    a: Tensor, b: Tensor, moved: Tensor
) -> Iterator[tuple[int, int, tuple[Tensor, Tensor, Tensor]]]:
    """Yield an axis, where a piece of it starts, and the piece of each array, widened.

    The third is the second itself where nothing moved. Along the longest axis, so that pieces fit
    into the cache whatever the block's shape, and sums of units add up over the pieces.
    """
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    axis = max(range(a.dim()), key=lambda k: a.shape[k])
    piece = IN_CACHE if a.device.type == "cpu" else AT_ONCE
    step = max(1, piece * a.shape[axis] // a.numel())
    for start in range(0, a.shape[axis], step):
        length = min(step, a.shape[axis] - start)
        x, y = (v.narrow(axis, start, length).to(wide) for v in (a, b))
        still = moved is b
        yield axis, start, (x, y, y if still else moved.narrow(axis, start, length).to(wide))


def _kept(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the sum over all dimensions but these, which are put in this order."""
    rest = [k for k in range(values.dim()) if k not in axes]
    front = values.permute(*axes, *rest)
    return front.sum(dim=list(range(len(axes), values.dim()))) if rest else front


def _sums(row: Tensor, group: BoundGroup, moving: Permutations, elements: int) -> UnitSums:
    before, after, reference, other = row
    # The other's own squares were summed in its own order; they move with the units.
    moved = gather(other, (*group.parents, group.name), moving)
    return UnitSums((before, after), reference, (other, moved), elements)


def _cosines(dot: Tensor, reference: Tensor, other: Tensor) -> Tensor:
    scale = (reference * other).sqrt()
    alive = scale > 0
    return (dot[alive] / scale[alive]).clamp(-1, 1)

"""The figures of a matching: objective, distance and cosines, in one pass over the tensors.

|A - P B|^2 = |A|^2 + |B|^2 - 2 <A, P B>, and the first two are the same for every P: the smallest
distance is the largest objective. The distance is summed all the same, from differences: of
models that are nearly equal that formula leaves nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import prod, sqrt

import torch
from torch import Tensor

from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.inner_products import inner, square, square_distance
from rebasin_cli.matching.problem.result import Change, GroupChange
from rebasin_cli.matching.problem.shared_work import INLINE, portions, share
from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.device_memory import with_room
from rebasin_cli.tensors.numbers import in_reals


@dataclass
class Sums:
    """Inner products of two models over some blocks, before and after permuting the other."""

    dot: list[float] = field(default_factory=lambda: [0.0, 0.0])
    apart: list[float] = field(default_factory=lambda: [0.0, 0.0])
    reference: float = 0.0
    other: float = 0.0

    def add(self, other: Sums) -> None:
        """Add the sums over other blocks."""
        self.dot = [x + y for x, y in zip(self.dot, other.dot, strict=True)]
        self.apart = [x + y for x, y in zip(self.apart, other.apart, strict=True)]
        self.reference += other.reference
        self.other += other.other

    @property
    def cosine(self) -> Change:
        scale = sqrt(self.reference * self.other) or 1.0
        return Change(self.dot[0] / scale, self.dot[1] / scale)


Compare = Callable[[Block, Tensor, Tensor, Tensor], Sums]
"""Called with a block of the reference and of the other, before and after it was permuted."""


@dataclass(frozen=True)
class Measured:
    """Objective, distance and per-group figures of a pair of models under permutations."""

    objective: Change
    distance: Change
    groups: tuple[GroupChange, ...]


def measure(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    permutations: Permutations,
    *,
    compare: Compare | None = None,
    pool: Executor = INLINE,
    progress: Progress = silent,
) -> Measured:
    """Compare two models over the voting tensors, before and after permuting the other.

    Floating tensors that the spec does not mention count too, as a constant part, unless
    they are buffers. Sums are accumulated in float64. Buffers do not vote: running variances, of
    order 1 to 100, would drown weights of order 0.05.

    A block counts for each group that it belongs to, so the figures of groups do not add up to
    the total; a group twice in a block counts it once.
    compare: sums a block, from any thread of the pool, and may look at more of it.
    """
    moving = {name: p for name, p in permutations.items() if p.moved}
    sides = _ComparedModels(reference, other)

    def here(tensor: BoundTensor) -> list[tuple[Block, Sums]]:
        return with_room(sides, partial(_sums_of, tensor, moving, compare or _as_a_whole))

    total = Sums()
    groups = {name: Sums() for name in bound.groups}
    voting = [tensor for tensor in bound.tensors if tensor.votes]
    sizes, done = [sum(block.numel for block in tensor.blocks) for tensor in voting], 0
    for some in portions(voting, sizes):
        progress("comparing", done, len(voting))
        for block, sums in chain(*share(pool, here, some)):
            for each in (total, *(groups[g] for g in set(block.groups) if g)):
                each.add(sums)
        done += len(some)
    for name in constant_tensors(bound, other):
        a, b = in_reals(reference.load(name)), in_reals(other.load(name))
        total.add(compare_block(a, b, b))
    return Measured(
        Change(total.dot[0], total.dot[1]),
        Change(sqrt(total.apart[0]), sqrt(total.apart[1])),
        tuple(_group_change(bound.groups[g], s, permutations) for g, s in groups.items()),
    )


def _sums_of(
    tensor: BoundTensor, moving: Permutations, compare: Compare, sides: _ComparedModels
) -> list[tuple[Block, Sums]]:
    """Return the sums of each block of a tensor."""
    values = tensor.load(sides.reference), tensor.load(sides.other)
    found = []
    for block in tensor.blocks:
        a, b = (block.view(v) for v in values)
        found.append((block, compare(block, a, b, gather(b, block.groups, moving))))
    return found


def _as_a_whole(_: Block, reference: Tensor, before: Tensor, after: Tensor) -> Sums:
    return compare_block(reference, before, after)


@dataclass(frozen=True)
class _ComparedModels:
    """The two models that are compared."""

    reference: TensorSource
    other: TensorSource

    @property
    def device(self) -> torch.device:
        found = (s.device for s in (self.reference, self.other) if isinstance(s, DeviceTensors))
        return next(found, torch.device("cpu"))

    @property
    def aside(self) -> _ComparedModels:
        a, b = (
            s.aside if isinstance(s, DeviceTensors) else s for s in (self.reference, self.other)
        )
        return _ComparedModels(a, b)

    def release(self) -> None:
        for source in (self.reference, self.other):
            if isinstance(source, DeviceTensors):
                source.release()


def compare_block(reference: Tensor, before: Tensor, after: Tensor) -> Sums:
    """Return the sums of one block; `after` is `before` where nothing moved."""
    dot, apart = inner(reference, before), square_distance(reference, before)
    still = after is before
    return Sums(
        dot=[dot, dot if still else inner(reference, after)],
        apart=[apart, apart if still else square_distance(reference, after)],
        reference=square(reference),
        other=square(before),
    )


def constant_tensors(bound: BoundSpec, source: TensorSource) -> list[str]:
    """Return the floating tensors that no group moves and the spec does not mention."""
    return [
        name for name in bound.untouched if name not in bound.buffers and source.info(name).floating
    ]


def _group_change(group: BoundGroup, sums: Sums, permutations: Permutations) -> GroupChange:
    permutation = permutations.get(group.name)
    return GroupChange(
        name=group.name,
        size=group.size,
        units=prod(group.shape),
        moved=permutation.moved if permutation else 0,
        cosine=sums.cosine,
        gain=sums.dot[1] - sums.dot[0],
        fixed=group.fixed,
    )

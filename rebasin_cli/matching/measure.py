"""The figures of a matching: objective, distance and cosines, in one pass over the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

from rebasin_cli.matching.result import Change, GroupChange
from rebasin_cli.matching.terms import inner
from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.spec import BoundGroup, BoundSpec
from rebasin_cli.tensors import TensorSource

PIECE = 1 << 22  # elements compared at a time: 32 MB in float64


@dataclass
class Sums:
    """Inner products of two models over some blocks, before and after permuting the other."""

    dot: list[float] = field(default_factory=lambda: [0.0, 0.0])
    apart: list[float] = field(default_factory=lambda: [0.0, 0.0])
    reference: float = 0.0
    other: float = 0.0

    def add(self, reference: Tensor, before: Tensor, after: Tensor) -> None:
        for a, b, c in zip(_pieces(reference), _pieces(before), _pieces(after), strict=True):
            self.dot[0] += inner(a, b)
            self.dot[1] += inner(a, c)
            self.apart[0] += inner(a - b, a - b)
            self.apart[1] += inner(a - c, a - c)
            self.reference += inner(a, a)
            self.other += inner(b, b)

    @property
    def cosine(self) -> Change:
        scale = sqrt(self.reference * self.other) or 1.0
        return Change(self.dot[0] / scale, self.dot[1] / scale)


@dataclass(frozen=True)
class Measured:
    """Objective, distance and per-group figures of a pair of models under permutations."""

    objective: Change
    distance: Change
    groups: tuple[GroupChange, ...]


def measure(
    reference: TensorSource, other: TensorSource, bound: BoundSpec, permutations: Permutations
) -> Measured:
    """Compare two models over the voting tensors, before and after permuting the other.

    Floating tensors that the spec does not mention count too, as a constant part, unless
    they are buffers. Sums are accumulated in float64.
    """
    total = Sums()
    groups = {name: Sums() for name in bound.groups}
    for tensor in bound.tensors:
        if not tensor.votes:
            continue
        values = tensor.load(reference), tensor.load(other)
        for block in tensor.blocks:
            a, b = (block.view(v) for v in values)
            moved = gather(b, block.groups, permutations)
            for sums in (total, *(groups[g] for g in set(block.groups) if g)):
                sums.add(a, b, moved)
    for name in constant(bound, other):
        a, b = reference.load(name), other.load(name)
        total.add(a, b, b)
    return Measured(
        Change(total.dot[0], total.dot[1]),
        Change(sqrt(total.apart[0]), sqrt(total.apart[1])),
        tuple(_group_change(bound.groups[g], s, permutations) for g, s in groups.items()),
    )


def constant(bound: BoundSpec, source: TensorSource) -> list[str]:
    """Return the floating tensors that no group moves and the spec does not mention."""
    return [
        name for name in bound.untouched if name not in bound.buffers and source.info(name).floating
    ]


def _group_change(group: BoundGroup, sums: Sums, permutations: Permutations) -> GroupChange:
    permutation = permutations.get(group.name)
    units = 1
    for size in group.shape:
        units *= size
    return GroupChange(
        name=group.name,
        size=group.size,
        units=units,
        moved=permutation.moved if permutation else 0,
        cosine=sums.cosine,
        gain=sums.dot[1] - sums.dot[0],
    )


def _pieces(values: Tensor) -> Iterator[Tensor]:
    flat = values.reshape(-1)
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]

"""What an operator without a rule does to its axes, found by running it on permuted numbers.

Axes of one size that may be permuted together, so that the results are the old ones or the old
ones permuted along one or two axes, move together; all others are fixed. That holds for whole
axes: what a permutation for each index of another axis would do is not tried, and so ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.trace.analysis import Analysis, Axes
from rebasin_cli.trace.record import Call, Value, mapped, values_in
from rebasin_cli.trace.terms import Term

ELEMENTS = 300_000  # of one tensor; above that a probe takes too long
RUNS = 400  # of the operator, for one layout of arguments
TOGETHER = 5  # axes of arguments that move together: batch norm has five
MOVED = 2  # axes of one result that move together: Gram matrices have two
EQUAL = 1e-6  # relative; what is no symmetry changes random numbers by as much as they are

Place = tuple[int, int]  # an operand or a result, and an axis of it


@dataclass(frozen=True)
class Relation:
    """Axes of operands and results that move together."""

    operands: tuple[Place, ...]
    results: tuple[Place, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor among the arguments: which one, and its numbers if it is no floating one."""

    position: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: tuple[int, ...] | None

    @property
    def random(self) -> bool:
        return self.dtype.is_floating_point or self.dtype.is_complex

    def tensor(self, generator: torch.Generator) -> Tensor:
        """Return its numbers, or random ones in double precision."""
        if self.random:
            wide = torch.complex128 if self.dtype.is_complex else torch.float64
            return torch.randn(self.shape, dtype=wide, generator=generator)
        return torch.tensor(self.numbers, dtype=self.dtype).reshape(self.shape)


def probed(analysis: Analysis, call: Call) -> list[Axes] | None:
    """Tie the axes of a call by what permuting them does; return None if it cannot be run.

    A tensor of integers or truth values is only run with the numbers that it had, so its call
    cannot be probed where they are not known.
    """
    values = tuple(dict.fromkeys(call.operands))
    layout = _layout(call, values)
    if layout is None:
        return None
    found = _relations(call.op, *layout)
    if found is None:
        return None
    for value in values:
        _mix_all(analysis, tuple(analysis.terms.collapse(t) for t in analysis.of(value)))
    return _tied(analysis, call, values, found)


def _mix_all(analysis: Analysis, axes: Axes) -> None:
    for dim in range(len(axes)):
        analysis.mix(axes, [dim])


def _tied(
    analysis: Analysis, call: Call, values: Sequence[Value], found: Sequence[Relation]
) -> list[Axes]:
    rows = [[analysis.terms.collapse(t) for t in analysis.of(value)] for value in values]
    shapes = [() if result is None else result.shape for result in call.results]
    text = f"no rule for {call.name}; probing found no symmetry"
    made = [list(analysis.frozen(shape, text, soft=True)) for shape in shapes]
    free = {place for relation in found for place in relation.operands}
    for relation in found:
        first, *rest = [rows[k][dim] for k, dim in relation.operands]
        for other in rest:
            analysis.terms.unify(first, other)
        for k, dim in relation.results:
            made[k][dim] = first
    fixed: list[Term] = [
        term
        for k, row in enumerate(rows)
        for dim, term in enumerate(row)
        if (k, dim) not in free
    ]
    analysis.freeze(fixed, text, soft=True)
    return [tuple(row) for row in made]


# -- arguments ----------------------------------------------------------------------------------


def _layout(call: Call, values: Sequence[Value]) -> tuple[Any, Any, Any] | None:
    """Return all that decides what a call does but its floating numbers, or None."""
    if torch.Tag.nondeterministic_seeded in call.op.tags or _writes(call):
        return None
    operands: dict[Value, Operand] = {}
    for position, value in enumerate(values):
        operand = _operand(position, value)
        if operand is None:
            return None
        operands[value] = operand
    args, options = mapped((call.args, call.kwargs), Value, operands.__getitem__)
    shapes = tuple(None if result is None else result.shape for result in call.results)
    layout = _hashable(args), _hashable(options), shapes
    return layout if _is_hashable(layout) else None


def _writes(call: Call) -> bool:
    """Return whether a call changes an argument that is not among its results."""
    return any(value not in call.results for value in call.written)


def _operand(position: int, value: Value) -> Operand | None:
    if prod(value.shape) > ELEMENTS:
        return None
    plain = Operand(position, value.shape, value.dtype, None)
    if plain.random:
        return plain
    constant = value.root.source == "constant" and value.data is not None
    numbers = tuple(value.data.flatten().tolist()) if constant and value.data is not None else None
    return None if numbers is None else Operand(position, value.shape, value.dtype, numbers)


def _hashable(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return tuple((key, _hashable(item)) for key, item in tree.items())
    return tuple(map(_hashable, tree)) if isinstance(tree, tuple | list) else tree


def _is_hashable(tree: Any) -> bool:
    try:
        hash(tree)
    except TypeError:
        return False
    return True


def _operands_in(tree: Any) -> Iterator[Operand]:
    if isinstance(tree, Operand):
        yield tree
    elif isinstance(tree, tuple):
        for item in tree:
            yield from _operands_in(item)

"""How the axes of an operator move together, found by running it on permuted random numbers.

Axes of one size that may be permuted together, so that the results are the old ones or the old
ones permuted along one or two axes, move together; of all others nothing is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import is_floating
from rebasin_cli.tensors.trees import leaves_of, map_leaves

RUNS = 400  # of the operator, for one layout of arguments
TOGETHER = 5  # axes of arguments that move together: batch norm has five
MOVED = 2  # axes of one result that move together: Gram matrices have two
COARSE = 8  # examples of an operator whose results are not all floating
ROUNDING = 1e3  # times the precision: what sums in another order may change

AxisPlace = tuple[int, int]  # an operand or a result, and an axis of it
CallLayout = tuple[
    Any, Any, tuple[tuple[int, ...] | None, ...], tuple[int, ...]
]  # arguments, options, the shapes of the results that count, and which ones these are


@dataclass(frozen=True)
class OperatorRelation:
    """Axes of operands and results that move together."""

    operands: tuple[AxisPlace, ...]
    results: tuple[AxisPlace, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor among the arguments: which one, and its numbers if it is no floating one."""

    position: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: bytes | None

    @property
    def random(self) -> bool:
        return is_floating(self.dtype)

    def tensor(self, generator: torch.Generator, *, positive: bool) -> Tensor:
        """Return its numbers, or random ones in double precision."""
        if self.random:
            wide = torch.complex128 if self.dtype.is_complex else torch.float64
            drawn = torch.randn(self.shape, dtype=wide, generator=generator)
            return drawn.abs().to(wide) if positive else drawn
        if not self.numbers:
            return torch.zeros(self.shape, dtype=self.dtype)
        return torch.frombuffer(bytearray(self.numbers), dtype=self.dtype).reshape(self.shape)


@dataclass
class _ProbedOperator:
    """An operator with its arguments but for the numbers; counts down its runs."""

    op: Any
    args: Any
    options: Any
    kept: Sequence[int] | None  # which results count; None: all
    left: int = RUNS

    def run(self, given: Sequence[Tensor]) -> tuple[Any, ...]:
        self.left -= 1
        copies = [tensor.clone() for tensor in given]
        arguments = self.args, dict(self.options)
        args, options = map_leaves(arguments, Operand, lambda o: copies[o.position])
        made = self.op(*args, **options)
        results = tuple(made) if isinstance(made, tuple | list) else (made,)
        for before, after in zip(given, copies, strict=True):
            if not torch.equal(before, after) and not any(after is result for result in results):
                raise ValueError("an argument is overwritten and not returned")
        return results if self.kept is None else tuple(results[k] for k in self.kept)


@dataclass(frozen=True)
class _OperatorExample:
    """Random operands, and what the operator makes of them."""

    given: tuple[Tensor, ...]
    results: tuple[Any, ...]
    seed: int

    def order(self, size: int) -> Tensor:
        """Return a permutation; those of an even seed and the next generate all permutations."""
        generator = torch.Generator().manual_seed(self.seed // 2)
        units = torch.randperm(size, generator=generator)
        order = torch.arange(size)
        if self.seed % 2:
            order[units[:2]] = units[:2].flip(0)
        else:
            order[units] = units.roll(1)
        return order


@lru_cache(maxsize=4096)
def relations(
    op: Any, args: Any, options: Any, shapes: Any, *, kept: tuple[int, ...] | None = None
) -> tuple[OperatorRelation, ...] | None:
    """Return how the axes of an operator move, or None if it cannot be run on random numbers.

    kept: the positions of those results that count, whose shapes are given; None: all.
    """
    operands = sorted(set(leaves_of((args, options), Operand)), key=lambda o: o.position)
    operator = _ProbedOperator(op, args, options, kept)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            examples = _examples(operator, operands, positive=False)
            if not all(map(_is_finite, examples)):
                examples = _examples(operator, operands, positive=True)
            if not _telling(examples, shapes) or not _repeats(operator, examples[0]):
                return None
            return _without_clashes(tuple(_search(operator, examples)))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None


def _examples(
    operator: _ProbedOperator, operands: Sequence[Operand], *, positive: bool
) -> list[_OperatorExample]:
    """Return two examples, or more where truth values and integers tell less."""
    first = _example(operator, operands, 0, positive)
    coarse = any(isinstance(r, Tensor) and not is_floating(r.dtype) for r in first.results)
    seeds = range(1, COARSE if coarse else 2)
    return [first, *(_example(operator, operands, seed, positive) for seed in seeds)]


def _example(
    operator: _ProbedOperator, operands: Sequence[Operand], seed: int, positive: bool
) -> _OperatorExample:
    generator = torch.Generator().manual_seed(seed)
    given = tuple(operand.tensor(generator, positive=positive) for operand in operands)
    return _OperatorExample(given, operator.run(given), seed)


def _telling(
    examples: Sequence[_OperatorExample], shapes: Sequence[tuple[int, ...] | None]
) -> bool:
    """Return whether the results have the recorded shapes, are numbers, and depend on operands."""
    for example in examples:
        made = tuple(tuple(r.shape) if isinstance(r, Tensor) else None for r in example.results)
        if made != tuple(shapes) or any(not isinstance(r, Tensor) for r in example.results):
            return False
        if not _is_finite(example):
            return False
    one, two = (example.results for example in examples[:2])
    return any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


def _is_finite(example: _OperatorExample) -> bool:
    tensors = (result for result in example.results if isinstance(result, Tensor))
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _repeats(operator: _ProbedOperator, example: _OperatorExample) -> bool:
    """Return whether an operator makes the same of the same: it draws no numbers."""
    pairs = zip(example.results, operator.run(example.given), strict=True)
    return all(_equal(one, two) for one, two in pairs)


def _without_clashes(found: Sequence[OperatorRelation]) -> tuple[OperatorRelation, ...]:
    """Return the relations that move no axis of a result which another one moves too."""
    count = Counter(place for relation in found for place in relation.results)
    return tuple(r for r in found if all(count[place] == 1 for place in r.results))


def _search(
    operator: _ProbedOperator, examples: Sequence[_OperatorExample]
) -> Iterator[OperatorRelation]:
    """Yield what moves together, the fewest axes first, as long as runs are left."""
    shapes = [tensor.shape for tensor in examples[0].given]
    for size in sorted({size for shape in shapes for size in shape if size > 1}):
        free = _places(shapes, size)
        for count in range(1, TOGETHER + 1):
            for places in combinations(free, count):
                if operator.left < len(examples):
                    return
                if not set(places) <= set(free):
                    continue
                relation = _tried(operator, examples, places, size)
                if relation is not None:
                    yield relation
                    free = [place for place in free if place not in places]


def _places(shapes: Sequence[Sequence[int]], size: int) -> list[AxisPlace]:
    return [(k, dim) for k, shape in enumerate(shapes) for dim, n in enumerate(shape) if n == size]


def _tried(
    operator: _ProbedOperator,
    examples: Sequence[_OperatorExample],
    places: Sequence[AxisPlace],
    size: int,
) -> OperatorRelation | None:
    """Return the relation of some axes of operands, if permuting them permutes the results."""
    ways: list[list[tuple[AxisPlace, ...]]] = []
    for example in examples:
        order = example.order(size)
        after = operator.run(_permute_places(example.given, places, order))
        pairs = zip(example.results, after, strict=True)
        now = [_ways(k, before, then, order) for k, (before, then) in enumerate(pairs)]
        known = ways or now
        ways = [[w for w in a if w in b] for a, b in zip(known, now, strict=True)]
        if not all(ways):
            return None
    return OperatorRelation(tuple(places), tuple(place for way in ways for place in way[0]))


def _permute_places(
    tensors: Sequence[Tensor], places: Sequence[AxisPlace], order: Tensor
) -> tuple[Tensor, ...]:
    moved = list(tensors)
    for k, dim in places:
        moved[k] = moved[k].index_select(dim, order)
    return tuple(moved)


def _ways(k: int, before: Tensor, after: Tensor, order: Tensor) -> list[tuple[AxisPlace, ...]]:
    """Return the sets of axes of a result along which it was permuted, the fewest first."""
    dims = _places([before.shape], len(order))
    sets = [places for count in range(MOVED + 1) for places in combinations(dims, count)]
    return [
        tuple((k, dim) for _, dim in places)
        for places in sets
        if _equal(_permute_places([before], places, order)[0], after)
    ]


def _equal(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or not is_floating(one.dtype):
        return torch.equal(one, two)
    if not one.numel():
        return True
    # Not the whole as in `relative_difference`: each number has room of its own beside the scale's.
    precision = ROUNDING * torch.finfo(one.dtype).eps
    return torch.allclose(one, two, rtol=precision, atol=precision * float(one.abs().max()))

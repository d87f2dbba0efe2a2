"""Two models tensor by tensor, in one order: whether one is a copy, or a copy with something done.

What is compared here is the weights as they are stored, with nothing taken out of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from rebasin_cli.matching.problem.inner_products import wide_pieces
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import in_widest, same_bits
from rebasin_cli.tensors.numbers import in_reals

# Of |A|: what products in float64 and storing in float32 leave of a rotated or rescaled copy.
SAME_WEIGHTS = 1e-4
SPARSE = 0.01  # of all weights, that are zero in one model alone: below it nothing was pruned
BLOCK, SAMPLED = 32, 256  # weights that share a scale at least; blocks of a matrix looked at
FEWEST = 12  # different values of a block, below which it tells nothing
LEVELS = 255  # steps from zero to the largest weight of a block: 8 bits have 127, or 255
OFF_GRID = 0.1  # of a step: what float16 leaves of multiples of it
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a value
ON_GRID = 0.95  # of the blocks: a model that is quantised, its first and last layers perhaps not


@dataclass(frozen=True)
class Stored:
    """How two models differ in what they store, one of them moved.

    different: names of tensors whose bits differ. beyond_rounding: of those that are no rounding of
    one another. distance: |A - B| / |A|. where_both: the same of those weights alone that are zero
    in neither. largest: the largest |a - b| / |a| of a tensor.
    """

    tensors: int
    different: tuple[str, ...]
    beyond_rounding: tuple[str, ...]
    distance: float
    where_both: float
    largest: float

    @property
    def equal(self) -> bool:
        return not self.different

    @property
    def rounded(self) -> bool:
        """Whether nothing but rounding is between the two."""
        return not self.beyond_rounding

    @property
    def same_where_both(self) -> bool:
        """Whether weights are equal wherever neither model has a zero."""
        return self.where_both <= SAME_WEIGHTS


def compare_stored(a: TensorSource, b: TensorSource, names: Sequence[str]) -> Stored:
    """Return how tensors of two models of one order differ, one after another."""
    different, beyond, largest = [], [], 0.0
    sums = torch.zeros(4, dtype=torch.float64)
    for name in names:
        x, y = a.load(name), b.load(name)
        squares = _squares(x, y)
        sums += squares
        if same_bits(x, y):
            continue
        different.append(name)
        largest = max(largest, _share_apart(*squares[:2].tolist()))
        if not _is_rounding(x, y):
            beyond.append(name)
    size, apart, both, both_apart = (float(value) for value in sums.sqrt())
    return Stored(
        tensors=len(names),
        different=tuple(different),
        beyond_rounding=tuple(beyond),
        distance=apart / (size or 1.0),
        where_both=both_apart / (both or 1.0),
        largest=largest,
    )


def may_be_reordered(a: TensorSource, b: TensorSource, stacks: Iterable[Sequence[str]]) -> bool:
    """Return whether one model may be the other in another order, rounded or not.

    It is not where the bits of the values of some tensor, seen as whole numbers, have another sum.
    stacks: names of tensors whose values may change places with one another.
    """
    return all(_sums_of_bits(a, b, names) for names in stacks)


def _sums_of_bits(a: TensorSource, b: TensorSource, names: Sequence[str]) -> bool:
    sums = [0, 0]
    for name in names:
        for k, values in enumerate(_in_coarser(a.load(name), b.load(name))):
            numbers = values.contiguous().flatten().view(BITS[values.dtype.itemsize])
            sums[k] += int(numbers.sum(dtype=torch.int64))
    return sums[0] == sums[1]


def _in_coarser(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors in the coarser of their floating dtypes; complex ones as reals."""
    x, y = in_reals(x), in_reals(y)
    if x.dtype == y.dtype or not (x.is_floating_point() and y.is_floating_point()):
        return x, y
    coarser = max((x.dtype, y.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return x.to(coarser), y.to(coarser)


def _is_rounding(x: Tensor, y: Tensor) -> bool:
    """Return whether one tensor is the other in a coarser dtype."""
    dtypes = {x.dtype, y.dtype}
    if len(dtypes) == 1 or not all(dtype.is_floating_point for dtype in dtypes):
        return False
    return same_bits(*_in_coarser(x, y))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Return |x|^2 and |x - y|^2, then both of what is zero in neither; 0 of whole numbers."""
    x, y = in_reals(x), in_reals(y)
    sums = torch.zeros(4, dtype=torch.float64)
    if not x.is_floating_point():
        return sums
    for a, b in wide_pieces(x, y):
        both = (a != 0) & (b != 0)
        apart, sizes = a - b, torch.where(both, a, 0.0)
        known = torch.where(both, apart, 0.0)
        sums += torch.stack([v.dot(v) for v in (a, apart, sizes, known)])
    return sums


def _share_apart(square: float, apart: float) -> float:
    """Return |x - y| / |x| of two tensors that differ; infinite where there is no scale."""
    return sqrt(apart / square) if square > 0 else inf


@dataclass(frozen=True)
class Marks:
    """What was done to a model, as far as its own weights tell.

    zeros: share of the weights of its matrices that are zero. on_grid: share of blocks of its
    matrices whose weights are multiples of one step, or have few values.
    """

    zeros: float
    on_grid: float

    @property
    def quantised(self) -> bool:
        return self.on_grid >= ON_GRID


def marks_of(model: TensorSource, names: Iterable[str]) -> Marks:
    """Return the marks of a model. names: of matrices."""
    zeros = elements = blocks = on_grid = 0
    for name in names:
        values = in_reals(model.load(name))
        zeros += int((values == 0).sum())
        elements += values.numel()
        for block in _sampled(values):
            found = _is_on_grid(block)
            blocks += found is not None
            on_grid += found is True
    return Marks(zeros / max(elements, 1), on_grid / max(blocks, 1))


def _sampled(values: Tensor) -> Iterable[Tensor]:
    """Return some blocks of a matrix, each inside a row: evenly spread, the same in every run."""
    rows = values.reshape(len(values), -1)
    whole = rows.shape[1] // BLOCK * BLOCK
    blocks = rows[:, :whole].reshape(-1, BLOCK) if whole else rows
    return in_widest(blocks[:: max(1, len(blocks) // SAMPLED)][:SAMPLED])


def _is_on_grid(block: Tensor) -> bool | None:
    """Return whether weights are whole multiples of a step; None where they are too few to tell.

    The largest is one of 1 to 255 steps: for each of these all others are looked at. Of twelve
    weights of any value, all lie near multiples of some step once in a million times.
    """
    weights = block[block != 0]
    levels = torch.unique(weights)
    if len(levels) <= BLOCK // 2 and 2 * len(levels) <= len(weights):
        return True
    if len(levels) < FEWEST:
        return None
    counts = torch.arange(1, LEVELS + 1, dtype=levels.dtype)
    steps = counts[:, None] * (levels / levels.abs().max())
    return bool(((steps - steps.round()).abs() <= OFF_GRID).all(1).any())

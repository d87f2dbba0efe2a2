"""Two models tensor by tensor, in one order: whether one is a copy, or a copy with something done.

What is compared here is the weights as they are stored, with nothing taken out of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.folding.rotated_pair import rounding_of, share_apart
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import same_bits, wide

# Of |A|: what products in float64 and storing in float32 leave of a rotated or rescaled copy.
SAME_WEIGHTS = 1e-4
SPARSE = 0.01  # of all weights, that are zero in one model alone: below it nothing was pruned
BLOCK, SAMPLED = 64, 4096  # weights that share a scale at least; blocks of a tensor looked at
FEWEST = 8  # different values of a block, below which it tells nothing
LEVELS = 300  # steps from zero to the largest weight of a block: 8 bits have 127 or 255
OFF_GRID = 0.1  # of a step: what float16 leaves of multiples of it
ON_GRID = 0.95  # of the blocks: a model that is quantised, its first and last layers perhaps not


@dataclass(frozen=True)
class Stored:
    """How two models differ in what they store, one of them moved.

    different: names of tensors whose bits differ. beyond_rounding: of those that differ by more
    than the dtypes account for. distance: |A - B| / |A|. where_both: the same of weights that are
    zero in neither.
    """

    tensors: int
    different: tuple[str, ...]
    beyond_rounding: tuple[str, ...]
    distance: float
    where_both: float

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
    different, beyond = [], []
    sums = torch.zeros(3, dtype=torch.float64)
    for name in names:
        x, y = a.load(name), b.load(name)
        sums += _squares(x, y)
        if same_bits(x, y):
            continue
        different.append(name)
        if share_apart(x, y) > rounding_of(a.info(name), b.info(name)):
            beyond.append(name)
    size, apart, both = (float(value) for value in sums.sqrt())
    scale = size or 1.0
    return Stored(len(names), tuple(different), tuple(beyond), apart / scale, both / scale)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Return |x|^2, |x - y|^2, and the latter where neither is zero; 0 of whole numbers."""
    if not x.is_floating_point():
        return torch.zeros(3, dtype=torch.float64)
    x, y = wide(x), wide(y)
    apart = (x - y).square()
    both = apart[(x != 0) & (y != 0)]
    return torch.stack([x.square().sum(), apart.sum(), both.sum()])


@dataclass(frozen=True)
class Marks:
    """What was done to a model, as far as its own weights tell.

    zeros: share of the weights of its matrices that are zero. on_grid: share of blocks of its
    matrices whose weights are multiples of one step, or have no more than 16 values.
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
        values = model.load(name)
        zeros += int((values == 0).sum())
        elements += values.numel()
        for block in _sampled(values):
            found = _is_on_grid(block)
            blocks += found is not None
            on_grid += found is True
    return Marks(zeros / max(elements, 1), on_grid / max(blocks, 1))


def _sampled(values: Tensor) -> Iterable[Tensor]:
    """Return some blocks of a matrix, each inside a row: evenly spread, the same in every run."""
    rows = wide(values).reshape(len(values), -1)
    whole = rows.shape[1] // BLOCK * BLOCK
    blocks = rows[:, :whole].reshape(-1, BLOCK) if whole else rows
    return blocks[:: max(1, len(blocks) // SAMPLED)][:SAMPLED]


def _is_on_grid(block: Tensor) -> bool | None:
    """Return whether weights are few levels; None where they are too few to tell."""
    levels = block[block != 0].unique()
    if len(levels) < FEWEST:
        return None
    if len(levels) <= BLOCK // 4 and int((block != 0).sum()) >= BLOCK // 2:
        return True
    gaps = levels.diff() / (step := float(levels.diff().min()))
    coarse = float(levels.abs().max()) <= LEVELS * step
    return coarse and bool(((gaps - gaps.round()).abs() <= OFF_GRID).all())

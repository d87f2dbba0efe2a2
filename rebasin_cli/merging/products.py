"""Inner products of several tensors, of which a few at most are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import in_reals
from rebasin_cli.tensors.ranges import Ranged

_CHUNK = 1 << 18  # numbers of all tensors together, in float64
_HELD = 3  # of tensors that can only be had whole: as many as adding them up holds


def products_of_ranges(reads: Sequence[Ranged], size: int) -> Tensor:
    """Return the inner products (n, n) of tensors that are read in ranges, summed in float64."""
    return _products(reads, reads, size)


def products_of_wholes(opens: Sequence[Callable[[], Ranged]], size: int) -> Tensor:
    """Return the inner products (n, n) of n tensors, summed in float64, each a vector of reals.

    opens: what loads each, and returns how it is read. A few are open at once, so that all are
    loaded again for every few.
    """
    total = torch.zeros(len(opens), len(opens), dtype=torch.float64)
    for first in range(0, len(opens), _HELD):
        _fill(total, opens, slice(first, first + _HELD), size)
    return total


def _fill(total: Tensor, opens: Sequence[Callable[[], Ranged]], few: slice, size: int) -> None:
    """Fill in the products of a few tensors with one another, and with all behind them."""
    rows = [one() for one in opens[few]]
    total[few, few] = _products(rows, rows, size)
    for number in range(few.stop, len(opens)):
        total[few, number] = _products(rows, [opens[number]()], size).flatten()
        total[number, few] = total[few, number]


def _products(rows: Sequence[Ranged], columns: Sequence[Ranged], size: int) -> Tensor:
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    step = max(1, _CHUNK // len(rows))
    for begin in range(0, size, step):
        part = (begin, min(begin + step, size))
        left = _wide(rows, part)
        right = left if columns is rows else _wide(columns, part)
        total += left @ right.T
    return total


def _wide(reads: Sequence[Ranged], part: tuple[int, int]) -> Tensor:
    return torch.stack([in_reals(read(*part)).reshape(-1).to(torch.float64) for read in reads])

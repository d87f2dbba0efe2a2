"""The k-th of many numbers, which are read several times and never held.

Floating numbers that are not negative have the order of their bits, read as whole numbers. Of these
16 bits are found at a time: a pass over all counts how many have each value of the next 16, and the
counts say which value the k-th has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from rebasin_cli.tensors.ranges import Ranged

_PART = 1 << 18  # numbers that are looked at at once
_DIGIT = 16  # bits: as many counts as there are digits fit a core's cache
_CODES = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_size(read: Ranged, size: int, rank: int) -> float:
    """Return the rank-th smallest of absolute values, from 1 on; of no numbers 0.

    read: float32 or float64, not written to.
    """
    if not size:
        return 0.0
    kind = read(0, 1).dtype
    found, _ = kth_code(lambda: _codes(read, size), rank, 8 * kind.itemsize)
    return float(torch.tensor(found, dtype=_CODES[kind]).view(kind))


def kth_code(codes: Callable[[], Iterable[Tensor]], rank: int, width: int) -> tuple[int, int]:
    """Return the rank-th smallest of whole numbers, from 1 on, and its rank among its equals.

    codes: all of them in parts, once more whenever it is called; none negative, of `width` bits.
    """
    found = 0
    for place in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
        for part in codes():
            known = place + _DIGIT
            alike = part if known == width else part[part >> known == found]
            digits = (alike >> place) & ((1 << _DIGIT) - 1)
            counts += torch.bincount(digits, minlength=len(counts))
        below = counts.cumsum(0)
        digit = int(torch.searchsorted(below, rank))
        rank -= int(below[digit] - counts[digit])
        found = found << _DIGIT | digit
    return found, rank


def _codes(read: Ranged, size: int) -> Iterator[Tensor]:
    for begin in range(0, size, _PART):
        values = read(begin, min(begin + _PART, size)).abs()
        yield values.view(_CODES[values.dtype])

"""Batches of which some are held out from what is learned from the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from math import ceil

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches


@dataclass(frozen=True)
class DataSplit:
    """Batches of which a share is held out, spread evenly; the first is always among them.

    Which ones depends on their position alone, so a loader has to yield the same every time.
    share: between 0 and 1, both left out.
    """

    batches: Batches
    share: float

    def held_out(self) -> Iterator[Batch]:
        """Yield the batches that nothing is learned from."""
        return (batch for k, batch in enumerate(self.batches) if self.holds_out(k))

    def learned(self) -> Iterator[Batch]:
        """Yield the batches to learn from."""
        return (batch for k, batch in enumerate(self.batches) if not self.holds_out(k))

    def learned_batches(self) -> Batches:
        """Return the batches to learn from as data of their own."""
        return replace(self.batches, make=lambda: self._part(held_out=False), limit=None)

    def held_out_batches(self) -> Batches:
        """Return the batches that nothing is learned from as data of their own."""
        return replace(self.batches, make=lambda: self._part(held_out=True), limit=None)

    def _part(self, *, held_out: bool) -> Iterator[object]:
        """Yield the loader's batches that are held out, or all others."""
        values: Iterable[object] = islice(self.batches.make(), self.batches.limit)
        return (value for place, value in enumerate(values) if self.holds_out(place) == held_out)

    def count(self) -> int:
        """Return how many batches there are to learn from. Raises UserCodeError for none."""
        count = sum(1 for _ in self.learned())
        if not count:
            raise UserCodeError(
                f"{self.batches.name}: every batch is held out, none is left to learn from",
                hint="yield more and smaller batches, or hold out a smaller share",
            )
        return count

    def holds_out(self, position: int) -> bool:
        """Return whether the batch at a position is held out."""
        share = Fraction(self.share).limit_denominator(1000)  # 0.1 * 30 is not 3 in floats
        return ceil((position + 1) * share) > ceil(position * share)

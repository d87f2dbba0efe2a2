"""The parts of the data: what candidates are made on, and what they are judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

from rebasin_cli.commands.align.midpoint_judge import FEW
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.data_split import DataSplit


@dataclass(frozen=True)
class DataParts:
    """Batches to make candidates on, and others to judge them on.

    apart: whether they are others: of a single batch both are that one.
    """

    made_on: Batches
    judged_on: tuple[Batch, ...]
    apart: bool

    @property
    def few(self) -> Batches:
        """The first of the batches that candidates are made on: enough for statistics of norms."""
        most = self.made_on.limit
        return replace(self.made_on, limit=FEW if most is None else min(most, FEW))


def split_data(batches: Batches, share: float) -> DataParts:
    """Return the batches in two parts, of which a share, evenly spread, is held out to judge on.

    Some of that share, if it is large. Raises UserCodeError for what the loader raises.
    """
    split = DataSplit(batches, share)
    held_out = tuple(islice(split.held_out(), FEW))
    if next(split.learned(), None) is None:
        return DataParts(batches, held_out, apart=False)
    return DataParts(split.learned_batches(), held_out, apart=True)

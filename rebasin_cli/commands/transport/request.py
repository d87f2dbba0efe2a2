"""What `rebasin transport` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rebasin_cli.commands.command_request import CommandRequest
from rebasin_cli.folding.rotation_data import ACTIVATIONS
from rebasin_cli.models.user.batch_inputs import is_labelled
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.options.data import Data
from rebasin_cli.options.search import Search
from rebasin_cli.options.tracing import Tracing

PERMUTATION = "permutation"  # the map that is exact
LAYERWISE = "layerwise"
# What is written: the base and the difference, that alone, or an adapter, which is one.
MODEL, DELTA, ADAPTER = "model", "delta", "adapter"
AUTO = "auto"
HELD_OUT = 0.5  # of the batches, where a scale is chosen on them, or models are judged


@dataclass(frozen=True)
class TransportRequest(CommandRequest):
    """The difference of which models is carried, to which model, and how.

    tuned - origin is carried to target. map: a key of `WAYS`. scale: what the difference is
    multiplied by; None: chosen on held-out batches. form: MODEL or DELTA. masked: only what agrees
    with the slope of the target's loss is kept. origin_tracing: how the origin is built where that
    is not how the target is. tie: of heads that are folded into.
    """

    tuned: Path
    origin: Path
    target: Path
    map: str = PERMUTATION
    scale: float | None = 1.0
    form: str = MODEL
    masked: bool = False
    tie: str = AUTO
    origin_tracing: Tracing = Tracing()
    search: Search = Search()
    data: Data = Data()

    @property
    def learns(self) -> bool:
        """Whether something of the data gets into what is carried, its scale aside."""
        return self.masked or self.map == LAYERWISE or self.search.method == ACTIVATIONS

    def split(self, batches: Batches) -> DataSplit | None:
        """Return what of the data is held out from maps and masks; None: nothing.

        That is where a scale is chosen on it, and where models are judged on labelled batches of
        which there are two.
        """
        split = DataSplit(batches, HELD_OUT)
        if self.scale is None:
            return split
        if not self.learns or self.data.evaluate is not None:
            return None
        first = list(islice(batches, 2))
        return split if len(first) == 2 and is_labelled(first[0]) else None

    def learned(self, batches: Batches) -> Batches:
        """Return the batches that maps and masks may be learned from."""
        split = self.split(batches)
        return batches if split is None else split.learned_batches()

    @property
    def tracing_of_origin(self) -> Tracing:
        """How the origin and the tuned model are built."""
        return self.origin_tracing if self.origin_tracing.target else self.tracing

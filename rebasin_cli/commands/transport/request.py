"""What `rebasin transport` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.network.batches import Batches
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import Data
from rebasin_cli.options.output import Output
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing

PERMUTATION = "permutation"  # the map that is exact
# What is written: the base and the difference, that alone, or an adapter, which is one.
MODEL, DELTA, ADAPTER = "model", "delta", "adapter"
AUTO = "auto"
HELD_OUT = 0.5  # of the batches, where a scale is chosen on them


@dataclass(frozen=True)
class TransportRequest:
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
    selection: Selection = Selection()
    output: Output = Output()
    computing: Computing = Computing()
    tracing: Tracing = Tracing()
    origin_tracing: Tracing = Tracing()
    search: Search = Search()
    data: Data = Data()

    def learned(self, batches: Batches) -> Batches:
        """Return the batches that maps and masks may be learned from: not those a scale is."""
        return DataSplit(batches, HELD_OUT).learned_batches() if self.scale is None else batches

    @property
    def tracing_of_origin(self) -> Tracing:
        """How the origin and the tuned model are built."""
        return self.origin_tracing if self.origin_tracing.target else self.tracing

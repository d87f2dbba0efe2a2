"""What `rebasin merge` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.commands.command_request import CommandRequest
from rebasin_cli.commands.merge.combining import Combining, GlobWeights
from rebasin_cli.options.data import Data
from rebasin_cli.options.renormalization import Renormalization
from rebasin_cli.options.search import Search

LINEAR = ("zipit", "cca")  # methods that mix units instead of permuting them
LEAST_SQUARES = "least-squares"
RUNNING = (*LINEAR, LEAST_SQUARES)  # methods that run the models, and keep no model's function


@dataclass(frozen=True)
class MergeRequest(CommandRequest):
    """What is to be merged, and how.

    strategy: None: `star` to a base, else `many` up to 8 models, `star` beyond. sync_method: a key
    of SYNC_METHODS; None: `spectral`. weights: of the models; none: equal. reference: one of the
    models, whose frame the result has; None: the base, or the first. tensor_weights: for tensors
    that a glob names, in place of weights. combining: how the models are put together.
    preserve_first: the layers that stay apart. width: of hidden layers, in widths of one model.
    renormalization: how the result's statistics are to be corrected; --spec then says how to align,
    and --model what is run. tie: of heads that are folded into. resume: the list of matches that
    were found. save_parents: the folder that the models go to, in the order of units that they are
    merged in. save_maps: the file of linear maps.
    """

    models: Sequence[Path]
    strategy: str | None = None
    weights: Sequence[float] = ()
    tensor_weights: Sequence[GlobWeights] = ()
    reference: Path | None = None
    preserve_first: str | None = None
    width: float = 1.0
    renormalization: Renormalization | None = None
    tie: str = "auto"
    combining: Combining = Combining()
    resume: Path | None = None
    save_parents: Path | None = None
    save_maps: Path | None = None
    sync_method: str | None = None
    search: Search = Search()
    data: Data = Data()

    @property
    def paths(self) -> list[Path]:
        """All files that are read: the models, and the base last."""
        base = self.combining.base
        return [*self.models, *([base] if base else [])]

    @property
    def averages(self) -> bool:
        """Whether the result is the mean of the models, with the same weights in all tensors."""
        return not self.tensor_weights and self.combining == Combining()

"""What `rebasin align` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rebasin_cli.commands.align.learning import Learning
from rebasin_cli.commands.command_request import CommandRequest
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.data import Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.search import Search

STRAIGHT_THROUGH = "straight-through"  # the method that learns permutations


@dataclass(frozen=True)
class AlignRequest(CommandRequest):
    """What is to be aligned, and how.

    models: the reference, then what is brought into its basin. save: a file for the permutation,
    or a folder for several. learn: steps by which maps are learned from the midpoint's answers.
    select: how many ways are tried, of which the one with the best midpoint is taken; None: one.
    tie: what becomes of tied heads where norms are folded, see `settle_heads`.
    executor: who aligns the models. widen: models narrower than the reference get its widths.
    """

    models: Sequence[Path]
    save: str | None = None
    learn: int = 0
    select: int | None = None
    tie: str = "auto"
    executor: str = "local"
    widen: bool = False
    search: Search = Search()
    data: Data = Data()
    activations: Activations = Activations()
    learning: Learning = Learning()
    display: Display = Display()

    @property
    def finished(self) -> Path | None:
        """The file of --resume, if it lists what is finished: not where maps are learned."""
        learns = self.learn or self.search.method == STRAIGHT_THROUGH
        return None if learns else self.learning.resume

    @property
    def learning_options(self) -> Learning:
        """The options of learning, without a file that only lists what is finished."""
        return replace(self.learning, resume=None) if self.finished else self.learning

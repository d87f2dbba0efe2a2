"""The user's own code that a model is run on and judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from rebasin_cli.options.parameters import flags_in

_option = flags_in("Data")

SAMPLED = "sampled"  # in place of a target: text that the models write themselves


@dataclass(frozen=True)
class Data:
    """What a model is run on, and how it is judged: targets that name a user's own code.

    data: what yields batches, or `SAMPLED`. samples: how many sequences are drawn then; None: as
    many as are enough. batches: how many of each pass are used; None: all. evaluate: a function of
    the module; None: cross-entropy and accuracy on the data.
    """

    data: str | None = _option(
        "--data",
        metavar="FILE.py:NAME",
        help="A function that yields batches, inputs or (inputs, targets); pkg.mod:NAME too.",
    )
    samples: int | None = _option(
        "--samples",
        metavar="N",
        min=2,
        help="Sequences to draw with --data sampled. Default: 32,768 tokens of them.",
    )
    batches: int | None = _option(
        "--batches", metavar="N", min=1, help="Only the first N batches of each pass."
    )
    evaluate: str | None = _option(
        "--evaluate",
        metavar="FILE.py:NAME",
        help="A function of the model that returns its loss, or a dict of numbers; default: "
        "cross-entropy and accuracy on the data.",
    )

    @property
    def own(self) -> str | None:
        """What of the user's yields batches, if anything does."""
        return None if self.data == SAMPLED else self.data

    @staticmethod
    def check_flags(given: Mapping[str, Any]) -> None:
        """Raise for text to be drawn where no command does it, and for a number of nothing."""
        if "samples" not in given and given["data"] == SAMPLED:
            raise typer.BadParameter(
                "--data sampled is of align and merge, by activations, of align --learn, and of "
                "statistics; here --data file.py:batches yields batches"
            )
        if given.get("samples") is not None and given["data"] != SAMPLED:
            raise typer.BadParameter("--samples says how much is drawn with --data sampled")
        if given["batches"] is not None and given["data"] is None:
            raise typer.BadParameter("--batches says how many of --data count, and needs --data")


RUNNING = ("data", "batches")  # of commands that run a model and do not judge it
JUDGING = (*RUNNING, "evaluate")
WRITING = (*RUNNING, "samples")  # of those that run language models on what these write themselves
WRITTEN = (
    "A function that yields batches, inputs or (inputs, targets); pkg.mod:NAME too. Of language "
    "models also `sampled`: text that they write themselves, each as much, as long as they take "
    "it, up to 256 tokens."
)

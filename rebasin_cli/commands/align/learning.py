"""How permutations are learned from data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.errors import UsageError
from rebasin_cli.options.model_paths import optional_file
from rebasin_cli.options.parameters import flags_in

_option = flags_in("Learning (--method straight-through)")


@dataclass(frozen=True)
class Learning:
    """How permutations are learned from the loss on data.

    learning_rate: of the first step, in lengths of the reference. held_out: share of the batches
    to choose by. check_every: batches between two looks at those; None: one look an epoch. resume:
    a file in which every epoch is saved, and from which learning goes on. Of these, maps that are
    learned (--learn) take `held_out` and `resume`. Where nothing is learned, `resume` is of models.
    """

    epochs: int = _option("--epochs", kind=int, default=10, min=0, help="Passes over the data.")
    learning_rate: float = _option(
        "--learning-rate",
        kind=float,
        default=1e-2,
        metavar="RATE",
        min=0.0,
        max=1.0,
        help="Length of the first step, as a share of the reference's.",
    )
    held_out: float = _option(
        "--held-out",
        kind=float,
        default=0.2,
        metavar="SHARE",
        help="Of the batches: nothing is learned from them.",
    )
    check_every: int | None = _option(
        "--check-every",
        kind=int | None,
        metavar="N",
        min=1,
        help="Look at the held-out batches every N batches too, not only after each epoch.",
    )
    resume: Path | None = _option(
        "--resume",
        kind=str | None,
        parse=optional_file,
        metavar="FILE",
        help="List here what is finished, and go on from there if it is interrupted. "
        "Straight-through saves every epoch here instead, --learn now and then until the end.",
    )


def check_held_out(learning: Learning) -> None:
    """Raise UsageError for a share that leaves out nothing, or all."""
    if not 0 < learning.held_out < 1:
        raise UsageError(
            f"--held-out {learning.held_out:g} is not a share",
            hint="a number between 0 and 1, as 0.2",
        )

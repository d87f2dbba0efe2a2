"""The options of learning permutations from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.extend import extended, options_in
from rebasin_cli.options.parameters import home_path

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Learning

PANEL = "Learning (--method straight-through)"
_option = options_in(PANEL)

Epochs = Annotated[int, _option("--epochs", min=0, help="Passes over the data.")]
Rate = Annotated[
    float,
    _option(
        "--learning-rate",
        metavar="RATE",
        min=0.0,
        max=1.0,
        help="Length of the first step, as a share of the reference's.",
    ),
]
HeldOut = Annotated[
    float,
    _option("--held-out", metavar="SHARE", help="Of the batches: nothing is learned from them."),
]
CheckEvery = Annotated[
    int | None,
    _option(
        "--check-every",
        metavar="N",
        min=1,
        help="Look at the held-out batches every N batches too, not only after each epoch.",
    ),
]
Resume = Annotated[
    Path | None,
    _option(
        "--resume", metavar="FILE", help="Save every epoch here, and go on from it if it is there."
    ),
]

_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "epochs": (Epochs, 10),
    "learning_rate": (Rate, 1e-2),
    "held_out": (HeldOut, 0.2),
    "check_every": (CheckEvery, None),
    "resume": (Resume, None),
}


def with_learning(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options about learning, to be read from its context."""
    return extended(command, _OPTIONS)


def learning_from(params: Mapping[str, Any]) -> Learning:
    """Return what a command's parameters say about learning."""
    from rebasin_cli.options.groups import Learning

    if "learning_rate" not in params:
        return Learning()
    return Learning(
        epochs=params["epochs"],
        rate=params["learning_rate"],
        held_out=params["held_out"],
        check=params["check_every"],
        state=home_path(params["resume"]) if params["resume"] else None,
    )

"""The user's own code that a model is run on and judged by."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.options.parameters import flags_in

_option = flags_in("Data")


@dataclass(frozen=True)
class Data:
    """What a model is run on, and how it is judged: targets that name a user's own code.

    data: what yields batches. batches: how many of each pass are used; None: all. evaluate: a
    function of the module; None: cross-entropy and accuracy on the data.
    """

    data: str | None = _option(
        "--data",
        kind=str | None,
        metavar="FILE.py:NAME",
        help="A function that yields batches, inputs or (inputs, targets); pkg.mod:NAME too.",
    )
    batches: int | None = _option(
        "--batches",
        kind=int | None,
        metavar="N",
        min=1,
        help="Only the first N batches of each pass.",
    )
    evaluate: str | None = _option(
        "--evaluate",
        kind=str | None,
        metavar="FILE.py:NAME",
        help="A function of the model that returns its loss, or a dict of numbers; default: "
        "cross-entropy and accuracy on the data.",
    )


RUNNING = ("data", "batches")  # of commands that run a model and do not judge it

"""The options that name a user's own code to run: the model, its data, how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.extend import extended, options_in

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Running

PANEL = "Data"
_option = options_in(PANEL)

Data = Annotated[
    str | None,
    _option(
        "--data",
        metavar="FILE.py:NAME",
        help="A function that yields batches, inputs or (inputs, targets); pkg.mod:NAME too.",
    ),
]
Evaluate = Annotated[
    str | None,
    _option(
        "--evaluate",
        metavar="FILE.py:NAME",
        help="A function of the model that returns its loss, or a dict of numbers; default: "
        "cross-entropy and accuracy on the data.",
    ),
]
BatchCount = Annotated[
    int | None,
    _option("--batches", metavar="N", min=1, help="Only the first N batches of each pass."),
]

_DATA: Mapping[str, tuple[Any, Any]] = {"data": (Data, None), "batches": (BatchCount, None)}


def with_data(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has --data and --batches, to be read from its context."""
    return extended(command, _DATA)


def with_evaluation(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has --data, --batches and --evaluate."""
    return extended(command, {**_DATA, "evaluate": (Evaluate, None)})


def running_from(params: Mapping[str, Any]) -> Running:
    """Return what a command's parameters say about running a model."""
    from rebasin_cli.options.groups import Running

    names = ("data", "evaluate", "batches")
    return Running(**{name: params[name] for name in names if name in params})

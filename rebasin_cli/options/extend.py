"""Options that several commands share, added to a command instead of written out in each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import typer


def options_in(panel: str) -> Callable[..., Any]:
    """Return what declares an option under a heading of the help; it takes what typer's does.

    Files that cannot be read are told by whoever reads them, with the exit code for that.
    """
    return partial(typer.Option, rich_help_panel=panel, readable=False)


def argument(metavar: str, *, hidden: bool = False) -> Any:
    """Return what declares an argument; as of files, see `options_in`."""
    return typer.Argument(metavar=metavar, hidden=hidden, readable=False)


def extended(
    command: Callable[..., None], options: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """Return a command with further parameters, which it does not get: typer puts them aside."""
    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in options.items()
    ]

    @wraps(command)
    def wrapped(**params: Any) -> None:
        command(**{name: value for name, value in params.items() if name in own.parameters})

    signature = own.replace(parameters=[*own.parameters.values(), *added])
    vars(wrapped)["__signature__"] = signature
    wrapped.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    return wrapped

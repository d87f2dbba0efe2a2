"""The command `rebasin` and its options; each group of commands has a module of its own."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer

from rebasin_cli import __version__
from rebasin_cli.cli import compare, mix, move
from rebasin_cli.cli.process import PIPE_CLOSED, prepare_heap, prepare_streams, settled
from rebasin_cli.cli.runner import COMPLAINT, fail, guarded
from rebasin_cli.commands.barrier import command as barrier
from rebasin_cli.commands.prune import command as prune
from rebasin_cli.commands.renormalize import command as renormalize
from rebasin_cli.commands.spec import command as specs
from rebasin_cli.commands.statistics import command as statistics
from rebasin_cli.errors import Problem, UsageError

EPILOG = """
Examples:

    rebasin align a.safetensors b.safetensors

    rebasin merge run-*/model.safetensors -o soup.safetensors

    rebasin align a.pt b.pt | rebasin lerp --steps 99

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the check said no, 2 usage,
3 bad input, 4 machine, 5 some items failed.
"""

app = typer.Typer(
    name="rebasin",
    help="Align, merge and interpolate checkpoints modulo permutation symmetry.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    parts = [f"python {platform.python_version()}"]
    for name in ("torch", "safetensors", "scipy", "lapx"):
        with suppress(metadata.PackageNotFoundError):  # lapx is optional
            parts.append(f"{name} {metadata.version(name)}")
    print(f"rebasin {__version__} ({', '.join(parts)})")
    raise typer.Exit


@app.callback()
def rebasin(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
) -> None:
    """Align, merge and interpolate checkpoints modulo permutation symmetry."""


for module in (move, mix, compare, prune, statistics, renormalize, barrier):
    for function in module.COMMANDS:
        app.command(function.__name__)(function)
app.add_typer(specs.app, name="spec")


def main() -> NoReturn:
    """Run the command line and exit."""
    prepare_streams()
    prepare_heap()
    raise SystemExit(settled(_exit_code()))


def _exit_code() -> int:
    json_wanted, stdout = "--json" in sys.argv, sys.stdout
    try:
        with guarded("rebasin", json_wanted=json_wanted):
            try:
                return _command()(standalone_mode=False) or 0
            except COMPLAINT as complaint:
                fail("rebasin", _usage_error(complaint), json_wanted)
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        # rich and typer leave like this, and only when the reader of the help has gone
        sys.stdout = stdout
        return PIPE_CLOSED if end.code == 1 else int(end.code or 0)


@cache
def _command() -> Callable[..., Any]:
    """Return the commands as typer makes them, once a process: that takes a while."""
    return typer.main.get_command(app)


def _usage_error(complaint: Exception) -> UsageError:
    """Return what typer complains about in the form of our own errors."""
    context = getattr(complaint, "ctx", None)
    text = complaint.format_message() if hasattr(complaint, "format_message") else str(complaint)
    hint = f"{context.command_path} --help" if context else ""
    return UsageError(*([Problem(text.rstrip("."), hint=hint)] if text else []))

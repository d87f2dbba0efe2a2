"""The command `rebasin`: a group that imports a command when it is asked for, and not before."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from importlib import import_module, metadata
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from rebasin_cli import __version__
from rebasin_cli.cli.process import PIPE_CLOSED, prepare_heap, prepare_streams, settle_stdout
from rebasin_cli.cli.runner import COMPLAINT, carry_out, fail, guard, require_present
from rebasin_cli.cli.signals import StoppedError, leave_on_signals
from rebasin_cli.commands.registry import COMMANDS, SPEC, CommandEntry
from rebasin_cli.errors import Problem, UsageError

EPILOG = """
Examples:

    rebasin align a.safetensors b.safetensors

    rebasin merge run-*/model.safetensors -o soup.safetensors

    rebasin align a.pt b.pt | rebasin lerp --steps 99

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the check said no, 2 usage,
3 bad input, 4 machine, 5 some items failed.
"""
MARKUP: Any = "markdown"
TABLED = 70  # columns: a narrower table cuts the names of options short
SETTINGS = {"help_option_names": ["-h", "--help"]}
EMPTY = re.compile("--[a-z-]+=")
LETTER_IS = re.compile("-[A-Za-z]=.")


class LazyGroup(TyperGroup):
    """A group of commands that are known by name and summary until one of them is run."""

    entries: ClassVar[Mapping[str, CommandEntry]] = {}
    prefix: ClassVar[str] = ""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        listed = {n: TyperCommand(name=n, help=e.summary) for n, e in self.entries.items()}
        self.commands: Any = {**listed, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command that the first word names, imported, and the other words."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.loaded(name) if name in self.entries else command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        self.rich_markup_mode = _markup()
        super().format_help(ctx, formatter)

    def loaded(self, name: str | None) -> Any:
        """Return a command with its parameters."""
        entry = self.entries[name or ""]
        single = typer.Typer(
            rich_markup_mode=_markup(), add_completion=False, context_settings=SETTINGS
        )
        function = getattr(import_module(entry.module), entry.function)
        single.command(name)(_guarded(f"{self.prefix}{name}", function))
        return typer.main.get_command(single)


def _markup() -> Any:
    """Return how help is set: without tables where the terminal is too narrow for them."""
    return MARKUP if shutil.get_terminal_size().columns >= TABLED else None


def _guarded(command: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a command, whose errors are told under its name.

    Its arguments that are paths are files that it reads: they have to be there.
    """
    parameters = signature(function, eval_str=True).parameters.values()
    arguments = [p.name for p in parameters if _is_argument(p.annotation)]

    @wraps(function)
    def guarded(**given: Any) -> Any:
        with guard(command, json_wanted=bool(given.get("json"))):
            values = [given[name] for name in arguments]
            named = [one for v in values for one in (v if isinstance(v, list) else [v])]
            require_present(one for one in named if isinstance(one, Path))
            try:
                return function(**given)
            except typer.BadParameter as error:  # of an option's value, as it is taken apart
                raise UsageError(str(error), hint=f"rebasin {command} --help") from error

    return guarded


def _is_argument(annotation: Any) -> bool:
    return any(isinstance(mark, ArgumentInfo) for mark in get_args(annotation)[1:])


class Commands(LazyGroup):
    """The commands of `rebasin`."""

    entries = COMMANDS


class SpecCommands(LazyGroup):
    """The commands of `rebasin spec`."""

    entries = SPEC
    prefix = "spec "


app = typer.Typer(
    name="rebasin",
    cls=Commands,
    help="Align, merge and interpolate checkpoints modulo permutation symmetry.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings=SETTINGS,
)
app.add_typer(
    typer.Typer(
        cls=SpecCommands,
        help="List, show, check, trace and start permutation specs.",
        no_args_is_help=True,
        rich_markup_mode=MARKUP,
        context_settings=SETTINGS,
        callback=lambda: None,  # without one, Typer takes a group that has no commands for nothing
    ),
    name="spec",
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


def run_to_exit() -> NoReturn:
    """Run the command line and exit."""
    prepare_streams()
    prepare_heap()
    try:
        code = _exit_code()
    except StoppedError as again:  # a second signal, while the first was dealt with
        code = again.exit_code
    leave_on_signals()
    raise SystemExit(settle_stdout(code))


def _exit_code() -> int:
    json_wanted, stdout = "--json" in sys.argv, sys.stdout
    try:
        with guard("rebasin", json_wanted=json_wanted):
            try:
                work = command_tree()(_words(sys.argv[1:]), standalone_mode=False)
            except COMPLAINT as complaint:
                fail(_about(complaint), _usage_error(complaint), json_wanted=json_wanted)
        return work if isinstance(work, int) else carry_out(work)
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        # rich and typer leave like this, and only when the reader of the help has gone
        sys.stdout = stdout
        return PIPE_CLOSED if end.code == 1 else int(end.code or 0)


def _words(typed: Sequence[str]) -> list[str]:
    """Return the words of a command line, `-o=FILE` as `-oFILE`: the file was called `=FILE`.

    Raises UsageError for an empty word: an option without its value, or a folder as MODEL.
    """
    for before, word in pairwise(["rebasin", *typed]):
        if not word or EMPTY.fullmatch(word):
            raise UsageError(
                f"an empty word stands behind {before}" if not word else f"{word} has no value",
                hint="a variable of the shell that is not set leaves one: name it, or leave it out",
            )
    options = typed.index("--") if "--" in typed else len(typed)
    plain = [word[:2] + word[3:] if LETTER_IS.match(word) else word for word in typed[:options]]
    return [*plain, *typed[options:]]


@cache
def command_tree() -> Any:
    """Return the commands as Typer makes them, once a process: that takes a while."""
    return typer.main.get_command(app)


def _about(complaint: Exception) -> str:
    """Return the name of the command that typer complains about, `rebasin` if there is none yet."""
    context, names = getattr(complaint, "ctx", None), []
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(reversed(names)) or "rebasin"


def _usage_error(complaint: Exception) -> UsageError:
    """Return what typer complains about in the form of our own errors."""
    context = getattr(complaint, "ctx", None)
    name = getattr(complaint, "option_name", None)
    if context and name and hasattr(complaint, "possibilities"):
        from rebasin_cli.cli.unknown_option import unknown_option

        known = [
            option
            for each in context.command.params
            for option in (*each.opts, *each.secondary_opts)
        ]
        return unknown_option(_about(complaint), name, known, help=f"{context.command_path} --help")
    text = complaint.format_message() if hasattr(complaint, "format_message") else str(complaint)
    hint = f"{context.command_path} --help" if context else ""
    return UsageError(*([Problem(text.rstrip("."), hint=hint)] if text else []))

"""From a plan to what the user sees, and from every failure to an exit code: one place for all."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import NoReturn, cast

import typer

from rebasin_cli.cli.process import PIPE_CLOSED, say
from rebasin_cli.cli.signals import StoppedError, unwind_on_signals
from rebasin_cli.errors import (
    CheckpointError,
    MachineError,
    Problem,
    RebasinError,
    refusal_by_system,
)
from rebasin_cli.presentation.work import PrintedText, Work

BUG = 70


# What typer raises for a command line it cannot read; it names only this descendant in public.
COMPLAINT = cast("type[Exception]", typer.BadParameter.__mro__[2])


def carry_out(work: Work | PrintedText | None) -> int:
    """Make a plan, run it, show each outcome as it comes, and return the exit code.

    With --dry-run the plan is printed as JSON and nothing is done.
    """
    if work is None:
        return 0
    if isinstance(work, PrintedText):
        with guard(work.command, json_wanted=work.json):
            for line in work.lines():
                print(line, end="")
        return 0
    with guard(work.command, json_wanted=work.display.json):
        unwind_on_signals()
        return _shown(work)


def _shown(work: Work) -> int:
    """Show a plan, or the outcomes of its run; return the exit code that they amount to."""
    from rebasin_cli.cli.screen import Screen
    from rebasin_cli.presentation.outcomes import PARTIAL

    display, codes = work.display, [0]
    screen = Screen(work.command, work.presenters, display)
    with screen.progress() as progress, screen.warnings():
        made, began = work.plan(progress), perf_counter()
        if not display.dry_run:
            codes += [screen.show(outcome) for outcome in work.run(made, progress)]
    if display.dry_run:
        print(json.dumps(made.describe(), indent=None if display.json else 2))
        return 0
    screen.finish(codes.count(PARTIAL), perf_counter() - began)
    return max(codes)


def require_present(paths: Iterable[Path]) -> None:
    """Raise CheckpointError for paths on this machine that lead nowhere, all at once.

    Whoever opens them would tell the same, seconds later: that takes torch.
    """
    from rebasin_cli.checkpoint.failures import reading
    from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path

    problems: list[Problem] = []
    for path in map(named_path, paths):
        if isinstance(path, RemotePath):
            continue
        try:
            with reading(path):
                path.stat()
        except CheckpointError as error:
            problems += error.problems
        except MachineError:
            continue  # of what is there, and refused, whoever reads it tells
    if problems:
        raise CheckpointError(*dict.fromkeys(problems))


@contextmanager
def guard(command: str, *, json_wanted: bool = False) -> Iterator[None]:
    """Turn every exception into a message and an exit code; no traceback but for a bug."""
    try:
        yield
    except (typer.Exit, COMPLAINT):
        raise
    except BrokenPipeError as error:
        raise typer.Exit(PIPE_CLOSED) from error
    except StoppedError as stopped:
        say(stopped.word)
        raise typer.Exit(stopped.exit_code) from stopped
    except Exception as error:
        ours = _translated(error)
        if ours is not None:
            fail(command, ours, json_wanted=json_wanted)
        say(traceback.format_exc())
        say("this is a bug in rebasin: please report it with the lines above")
        raise typer.Exit(BUG) from error


def _translated(error: Exception) -> RebasinError | None:
    """Return an exception as one of ours; None: it is a bug."""
    if isinstance(error, RebasinError):
        return error
    if isinstance(error, MemoryError):
        return MachineError("out of memory", hint="--max-memory SIZE")
    if isinstance(error, OSError):
        return refusal_by_system(error, str(error.filename or ""), what="")
    if _out_of_device_memory(error):
        return MachineError(
            "a device has not enough memory",
            detail=str(error),
            hint="--device cpu, or --max-memory SIZE, or free the memory of the device",
        )
    return None


def _out_of_device_memory(error: Exception) -> bool:
    """Return whether torch has said so, which is imported only where it was needed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def fail(command: str, error: RebasinError, *, json_wanted: bool) -> NoReturn:
    """Say what is wrong, to a program too if it listens, and exit with the error's code."""
    from rebasin_cli.presentation.events import error_fields, event_line

    for problem in error.problems:
        say(f"error: {problem}")
    if os.environ.get("REBASIN_DEBUG"):
        say(traceback.format_exc())
    if json_wanted:
        with suppress(OSError):  # where stdout takes nothing more, that is told at the end
            print(event_line("error", command, error_fields(error)))
    raise typer.Exit(error.exit_code)

"""From a plan to what the user sees, and from every failure to an exit code: one place for all."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar, cast

import typer

from rebasin_cli.cli.process import PIPE_CLOSED, say
from rebasin_cli.errors import MachineError, RebasinError

BUG = 70
PARTIAL = 5
INTERRUPTED = 130
TERMINATED = 143


class Describable(Protocol):
    """A plan that can be printed."""

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""


# What typer raises for a command line it cannot read; it names only this descendant in public.
COMPLAINT = cast("type[Exception]", typer.BadParameter.__mro__[2])

PlanT = TypeVar("PlanT", bound=Describable)


class TerminatedError(BaseException):
    """SIGTERM arrived: unwind, clean up, leave."""


def deliver(
    ctx: typer.Context,
    plan: Callable[[], PlanT],
    run: Callable[[PlanT, Any], Iterator[Any]],
) -> None:
    """Make a plan, run it, show each outcome as it comes, and exit with the right code.

    With --dry-run the plan is printed as JSON and nothing is done. A plan may take minutes where a
    model is traced for it: it finds whom to tell in the context's parameters, as `progress`, and
    whom to warn, as `warn`.
    """
    command = command_name(ctx)
    with guarded(command, json_wanted=bool(ctx.params.get("json_"))):
        code = _delivered(command, ctx.params, plan, run)
    if code:
        raise typer.Exit(code)


def command_name(ctx: typer.Context) -> str:
    """Return `align` or `spec check`, however the program itself was called."""
    here: Any = ctx  # its parents are of a class that typer does not name in public
    names: list[str] = []
    while here.parent is not None:
        names.insert(0, here.info_name)
        here = here.parent
    return " ".join(names)


def _delivered(
    command: str,
    params: dict[str, Any],
    plan: Callable[[], PlanT],
    run: Callable[[PlanT, Any], Iterator[Any]],
) -> int:
    """Show a plan, or the outcomes of its run; return the exit code that they amount to."""
    from rebasin_cli.presentation.screen import Screen

    codes = [0]
    screen = Screen(
        json=params.get("json_", False),
        quiet=params.get("quiet", False),
        verbose=params.get("verbose", 0),
    )
    with screen.progress(not params.get("no_progress")) as progress:
        params["progress"], params["warn"] = progress, partial(screen.warn, command)
        made, began = plan(), perf_counter()
        if not params.get("dry_run"):
            for outcome in run(made, progress):
                codes.append(screen.show(outcome))
    if params.get("dry_run"):
        print(json.dumps(made.describe(), indent=None if params.get("json_") else 2))
        return 0
    screen.finish(command, codes.count(PARTIAL), perf_counter() - began)
    return max(codes)


@contextmanager
def guarded(command: str, *, json_wanted: bool = False) -> Iterator[None]:
    """Turn every exception into a message and an exit code; no traceback but for a bug."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (typer.Exit, COMPLAINT):
        raise
    except RebasinError as error:
        fail(command, error, json_wanted)
    except BrokenPipeError as error:
        raise typer.Exit(PIPE_CLOSED) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from error
    except TerminatedError as error:
        say("terminated")
        raise typer.Exit(TERMINATED) from error
    except MemoryError:
        fail(command, MachineError("out of memory", hint="--max-memory SIZE"), json_wanted)
    except OSError as error:
        where = str(error.filename or "")
        fail(command, MachineError(error.strerror or str(error), where=where), json_wanted)
    except Exception as error:
        say(traceback.format_exc())
        say("this is a bug in rebasin: please report it with the lines above")
        raise typer.Exit(BUG) from error


def fail(command: str, error: RebasinError, json_wanted: bool) -> NoReturn:
    """Say what is wrong, to a program too if it listens, and exit with the error's code."""
    from rebasin_cli.presentation.events import error_fields, event_line

    for problem in error.problems:
        say(f"error: {problem}")
    if os.environ.get("REBASIN_DEBUG"):
        say(traceback.format_exc())
    if json_wanted:
        print(event_line("error", command, error_fields(error)))
    raise typer.Exit(error.exit_code)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError

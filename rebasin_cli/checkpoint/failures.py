"""What the operating system refuses, said in the program's own errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rebasin_cli.errors import (
    NOWHERE,
    CheckpointError,
    Problem,
    RebasinError,
    UsageError,
    refusal_by_system,
    suggest,
)
from rebasin_cli.wording import and_more, shorten

MOST_PROBLEMS = 10
_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+%?,?")  # typed apart from the list that it is of


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError met while reading into a CheckpointError or a MachineError."""
    try:
        yield
    except OSError as error:
        raise read_failure(error, path) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing into a MachineError."""
    try:
        yield
    except OSError as error:
        raise refusal_by_system(error, str(path), what="cannot write") from error


def read_failure(error: OSError, path: Path) -> RebasinError:
    """Return the error to raise: a CheckpointError if the path leads nowhere."""
    if error.errno in NOWHERE:
        return missing(path)
    return refusal_by_system(error, str(path))


def missing(path: Path) -> CheckpointError:
    """Return the error for a path that does not exist, with a close name from its folder."""
    folder = path.parent
    with suppress(OSError, ValueError):  # a name that is too long, or no name at all
        if path.is_symlink():
            return CheckpointError(
                f"a link to {path.readlink()}, which is not there", where=str(path)
            )
    if _NUMBER.fullmatch(path.name):
        hint = "numbers of an option are one word: 0.7,0.3"
        return CheckpointError("no such file", where=str(path), hint=hint)
    names = _names(folder)
    if names is None:
        return CheckpointError("no such file", where=str(path), detail=f"no such folder: {folder}")
    return CheckpointError("no such file", where=str(path), hint=suggest(path.name, names))


def changed_in_use(where: object) -> CheckpointError:
    """Return the error for a file that is another than when it was opened."""
    return CheckpointError("the file was changed while it was in use", where=str(where))


def refuse_loop(path: Path) -> None:
    """Raise UsageError for a link that leads round to itself: nothing can be written there."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path} is a link that leads to itself", hint="remove it, or name another"
            ) from error


def cap_problems(problems: Sequence[Problem]) -> list[Problem]:
    """Return at most ten problems, and one line that counts the rest."""
    return shorten(problems, MOST_PROBLEMS, lambda rest: Problem(and_more(rest)))


def _names(folder: Path) -> list[str] | None:
    """Return the names in a folder, None if there is no such folder."""
    try:
        return sorted(child.name for child in folder.iterdir())
    except PermissionError:
        return []
    except OSError:
        return None

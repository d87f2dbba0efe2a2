"""Running a user's command on a file and reading what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rebasin_cli.errors import RebasinError, UsageError
from rebasin_cli.json_text import read_json

_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.")
# What only a shell understands, where it stands without quotes.
_OPERATOR = re.compile(r"(?:\|\|?|&&?|<|[0-9&]?>.*|.*;)")
TAIL = 5  # lines of a failed command's own words that are shown


class CommandFailedError(RebasinError):
    """A command given with --exec did not succeed, or said nothing."""

    exit_code = 5


def split_command(command: str) -> tuple[str, ...]:
    """Return the words of a command line.

    Raises UsageError if there are none, or open quotes, and for what only a shell understands.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"--exec {command!r} is not a command line: {error}") from error
    if not words:
        raise UsageError("--exec is empty", hint="--exec 'python evaluate.py {path}'")
    _refuse_operators(command)
    return words


def _refuse_operators(command: str) -> None:
    words = _QUOTED.sub("q", command).split()
    operator = next((word for word in words if _OPERATOR.fullmatch(word)), None)
    if operator:
        raise UsageError(
            f"--exec has {operator!r}, and no shell runs it",
            hint="--exec \"bash -c '...'\" has one run it",
        )


def execute(command: Sequence[str], path: Path, alpha: float) -> Any:
    """Run a command without a shell and return its last line of output: a number or JSON.

    `{path}` and `{alpha}` are replaced in each word. The command's stderr passes through.
    Text that is neither a number nor JSON is returned as it is.
    Raises CommandFailedError if it cannot be started, fails, or prints nothing.
    """
    values = {"{path}": str(path), "{alpha}": repr(alpha)}
    words = list(command)
    for mark, value in values.items():
        words = [word.replace(mark, value) for word in words]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise CommandFailedError(f"cannot run {words[0]!r}: {error.strerror}") from error
    said = done.stdout.decode("utf-8", "replace")
    lines = [line for line in said.splitlines() if line.strip()]
    if done.returncode != 0:
        raise CommandFailedError(
            f"the command failed with exit code {done.returncode} at alpha {alpha:g}",
            detail="\n".join([shlex.join(words), *lines[-TAIL:]]),
        )
    if not lines:
        raise CommandFailedError(
            f"the command printed nothing at alpha {alpha:g}",
            detail=shlex.join(words),
            hint="its last line on stdout should be a number or JSON",
        )
    return _value_of_line(lines[-1].strip())


def _value_of_line(line: str) -> Any:
    try:
        return read_json(line)
    except ValueError:
        return line

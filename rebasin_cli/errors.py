"""What can go wrong, one class for each thing a caller can do about it.

* RebasinError            exit code 3   any failure that has an explanation
  x UsageError            2             the command line contradicts itself
  x CheckpointError       3             a file cannot be read, or two files do not fit together
    + NotFiniteError      3             a tensor holds NaN or infinity
  x SpecError             3             a spec is invalid or does not fit a checkpoint
  x PermutationError      3             not a permutation, or not one for this checkpoint
  x UserCodeError         3             a model, loader or evaluation of the user's raises
  x MachineError          4             disk full, no such device, no permission, missing package
    + DeviceMemoryError   4             what has no room in the memory of a device

A bug is any other exception: the command line prints its traceback and exits with 70.

Texts name options as the command line does: `--max-memory 8GB`. Errors that leave a verb of the
library, and warnings that Python shows, name them as its keywords: `max_memory='8GB'`. See
`option_spelling.in_python`.
"""

from __future__ import annotations

import difflib
import errno
import inspect
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rebasin_cli.option_spelling import in_python

NamedT = TypeVar("NamedT")

# what the operating system says of a path that leads nowhere: a mistake, and not the machine's
NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR})
_HINTS = {
    errno.ENOSPC: "free some space or write to another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or write to another disk",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "check the permissions of the file and of its folder",
    errno.EPERM: "check the permissions of the file and of its folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "name a shorter one",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a sentence, and whatever helps to mend it.

    where: `file` or `file:line:column` (both 1-based).
    excerpt: the offending source line and carets, already indented.
    detail: what was expected and what was found. hint: the next thing to do.
    """

    what: str
    where: str = ""
    excerpt: str = ""
    detail: str = ""
    hint: str = ""

    def in_python(self) -> Problem:
        """Return the problem with its options spelled as keywords of the library."""
        return replace(self, what=in_python(self.what), hint=in_python(self.hint))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        hint = f"hint: {self.hint}" if self.hint else ""
        return "\n".join(part for part in (head, self.excerpt, self.detail, hint) if part)


class RebasinError(Exception):
    """A failure with one or more problems; `str()` is the text a person reads."""

    exit_code = 3

    def __init__(
        self, *problems: Problem | str, where: str = "", detail: str = "", hint: str = ""
    ) -> None:
        self.problems = tuple(
            problem
            if isinstance(problem, Problem)
            else Problem(problem, where=where, detail=detail, hint=hint)
            for problem in problems
        )
        super().__init__("\n".join(map(str, self.problems)))

    def tell_in_python(self) -> None:
        """Spell options as keywords of the library in the text that a person reads: `str()`."""
        self.args = ("\n".join(str(problem.in_python()) for problem in self.problems),)


class UsageError(RebasinError):
    """The options or arguments of a command do not make sense together."""

    exit_code = 2


class CheckpointError(RebasinError):
    """A checkpoint is unreadable, corrupt, or does not fit the others."""


class NotFiniteError(CheckpointError):
    """A tensor that has to be compared, or what is computed of it, holds NaN or infinity."""


class SpecError(RebasinError):
    """A spec is malformed, is not a symmetry, or does not fit a checkpoint."""


class PermutationError(RebasinError):
    """An index is not a permutation, or a permutation file does not fit a checkpoint."""


class UserCodeError(RebasinError):
    """Code that the user named raises, or gives something that cannot be used."""


class MachineError(RebasinError):
    """The machine cannot do it: device, memory, disk, permission or package."""

    exit_code = 4


class DeviceMemoryError(MachineError):
    """A device has not enough memory for what has to be on it at once."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest of the known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def suggest_file(path: Path) -> str:
    """Return what `suggest` does of the names in the folder of a path."""
    with suppress(OSError):
        return suggest(path.name, [other.name for other in path.parent.iterdir()])
    return ""


def suggest_tensor(name: str, known: Iterable[str]) -> str:
    """Return what `suggest` does of names of tensors, or how one of them is called."""
    names = sorted(known)
    example = f"a tensor is called {names[0]!r}" if names else ""
    return suggest(name, names) or example


def look_up(kind: str, name: str, table: Mapping[str, NamedT]) -> NamedT:
    """Return an entry of a table. Raises UsageError, with the nearest name, for an unknown one."""
    if name not in table:
        hint = suggest(name, table) or ", ".join(table)
        raise UsageError(f"no {kind} is called {name!r}", hint=hint)
    return table[name]


def refusal_by_system(error: OSError, where: str, *, what: str = "cannot read") -> MachineError:
    """Return the error for what the operating system does not do with a file."""
    reason = error.strerror or str(error)
    return MachineError(
        f"{what}: {reason}".removeprefix(": "), where=where, hint=_HINTS.get(error.errno or 0, "")
    )


class RebasinWarning(UserWarning):
    """Something is odd about the inputs, although the work goes on."""

    @property
    def text(self) -> str:
        """What the command line shows."""
        return str(self.args[0])

    def __str__(self) -> str:
        return in_python(self.text)


class ShortageWarning(RebasinWarning):
    """A device has too little memory: the same work, in another way. Once is enough."""


class DetailWarning(RebasinWarning):
    """What only those want to know who ask for more: -v of the command line."""


_OURS = frozenset({"rebasin_cli", "torch", "contextlib", "functools", "concurrent", "threading"})


def warn(said: str | Warning, kind: type[RebasinWarning] = RebasinWarning) -> None:
    """Warn of something, at the line of the caller's code that led here."""
    frame = inspect.currentframe()
    while frame and frame.f_back and _package(frame) in _OURS:
        frame = frame.f_back
    assert frame is not None, "CPython and PyPy have frames"
    names = frame.f_globals
    warnings.warn_explicit(
        said,
        kind,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=names.get("__name__"),
        registry=names.setdefault("__warningregistry__", {}),
    )


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]

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

Texts call options as the command line does, `--max-memory 8GB`. Errors that leave a verb of the
library, and warnings in Python, call them as it does, `max_memory='8GB'`: see `in_python`.
"""

from __future__ import annotations

import difflib
import errno
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import TypeVar

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

# Options that the library has as keywords: with values, and those that are given or not.
_VALUES = (
    "at base batches buffers combine data density device dtype effort evaluate format input "
    "input-shape jobs key loss max-memory method mode model only order outputs pass-through "
    "permute-buffer ref rename restarts scale seed set skip spec start steps strategy sync-method "
    "to weights width"
)
_SWITCHES = (
    "align dequantize drop-rest fast force free-outputs ignore-classes in-place inverse "
    "keep-unknown strict widen"
)
_RENAMED = {"set": "sizes", "permute-buffer": "buffers", "input": "inputs", "input-shape": "inputs"}
_TABLES = {"sizes", "to"}  # NAME=N is an entry of a dict
# Values that are words, which what follows an option in a sentence is not.
_WORDS = (
    "activations auto cca cpu cuda dare dare-ties frank-wolfe keep least-squares many mean "
    "model-stock none orthogonal pt quick reset safetensors sinkhorn slerp-n sync task-arithmetic "
    "ties untie weights zipit"
)
_OPTION = re.compile(
    r"(?P<command>rebasin [a-z][^`;,\n]*|`rebasin [^`]*`)"  # of a shell
    r"|(?<![\w/-])--(?P<no>no-)?(?P<name>[a-z-]+)"
    rf"(?: (?P<value>'[^']*'|(?:{_WORDS.replace(' ', '|')})\b|\S*?[A-Z0-9=./|]\S*?)"
    r"(?=[:;,)]*(?:\s|$)))?"
)
_REPEATED = re.compile(r"\b(\w+)=('[^']*')((?: \1='[^']*')+)")  # an option that is given again
_BESIDE = re.compile(r"(?<=['\]]) (?=[a-z_]+=)")  # two options, side by side


def in_python(text: str) -> str:
    """Return a text that calls options as the library does; commands of a shell stay."""
    called = _REPEATED.sub(_several, _OPTION.sub(_keyword, text))
    return _BESIDE.sub(", ", called)


def _several(found: re.Match[str]) -> str:
    more = found[3].replace(f" {found[1]}=", ", ")
    return f"{found[1]}=[{found[2]}{more}]"


def _keyword(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if found["command"]:
        return found[0]
    if name in _SWITCHES.split():
        told = f"{name.replace('-', '_')}={not found['no']}"
        return f"{told} {value}" if value else told
    if found["no"] or name not in _VALUES.split():
        return f"`{found[0]}` of the command line"
    word = _RENAMED.get(name, name.replace("-", "_"))
    return f"{word}=" if value is None else f"{word}={_value(name, word, value)}"


def _value(name: str, word: str, value: str) -> str:
    """Return a value as Python writes it; what stands for one, as GLOB, stays."""
    if name == "input-shape":
        return f"torch.rand({value.replace(',', ', ')})"
    if name == "input":
        return "tensors"
    if word in _TABLES:
        size, _, number = value.strip("'").rpartition("=")
        return f"{{{size!r}: {number}}}"
    if re.fullmatch(r"[-\d.]+(,[-\d.]+)+", value):
        return f"[{value.replace(',', ', ')}]"
    plain = value[0] == "'" or re.fullmatch(r"[A-Z]+|[-\d.]+", value)
    return value if plain else repr(value)


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
        """Return it with options called as the library does."""
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
        """Call options as the library does, in the text that a person reads."""
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

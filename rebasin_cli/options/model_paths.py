"""The MODEL arguments: as they were typed, or from another command's standard output."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.errors import UsageError
from rebasin_cli.json_text import read_json
from rebasin_cli.options.parameters import argument, flag

# Byte order marks of what is not UTF-8; the longer ones first, as they begin like the others.
WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class PipedRequest(Protocol):
    """What a command is asked for, a dataclass, if its models may come from stdin."""

    @property
    def models(self) -> Sequence[Path]:
        """Those that were named."""

    @property
    def null(self) -> bool:
        """Whether paths on stdin end in NUL."""


PipedT = TypeVar("PipedT", bound=PipedRequest)


def null_option() -> Any:
    """Return what declares --null."""
    return flag(
        "--null",
        "-0",
        default=False,
        rich_help_panel="Files",
        help="Paths on stdin end in NUL, as of `find -print0`.",
    )


def models_argument(metavar: str, *, hidden: bool = False) -> Any:
    """Return what declares the MODEL arguments, of which there may be none."""
    kind = list[Path] | None
    return argument(metavar, default=None, kind=kind, parse=model_paths, hidden=hidden)


def model_paths(models: Sequence[Path] | None) -> list[Path]:
    """Return the MODEL arguments, `~` expanded."""
    return [named_path(model) for model in models or ()]


def with_piped(request: PipedT) -> PipedT:
    """Return a request that names no model with those on stdin, unless a person types there.

    stdin holds one path a line, or NDJSON events of another rebasin command, or with `null`
    paths that end in NUL. Raises UsageError if an event says that the other command failed.
    """
    if request.models or sys.stdin is None or sys.stdin.isatty():
        return request
    copy: Any = replace  # of any dataclass
    found: PipedT = copy(
        request, models=model_paths(parse_paths(sys.stdin.buffer.read(), null=request.null))
    )
    return found


def parse_paths(data: bytes, *, null: bool) -> list[Path]:
    """Return the paths in what was piped in: lines, NUL-ended paths, or our NDJSON events.

    A byte order mark is no part of a path. Raises UsageError if an event reports an error: the set
    of models is then incomplete.
    """
    data = _in_utf8(data)
    parts = data.split(b"\0") if null else [line.rstrip(b"\r") for line in data.split(b"\n")]
    if not null and b"\0" in data:
        raise UsageError("stdin: the paths end in NUL", hint="-0 reads them so")
    names = [os.fsdecode(part.removeprefix(codecs.BOM_UTF8)) for part in parts]
    paths = [Path(name) if null else _path(name) for name in names if name]
    return [path for path in paths if path is not None]


def _in_utf8(data: bytes) -> bytes:
    """Return a list that an editor or a shell of Windows wrote in UTF-16 or UTF-32 in UTF-8."""
    coding = next((coding for mark, coding in WIDE if data.startswith(mark)), None)
    if coding is None:
        return data
    try:
        return data.decode(coding).encode()
    except UnicodeError as error:
        raise UsageError(f"stdin: a list of files that is not {coding}: {error}") from error


def _path(line: str) -> Path | None:
    """Return the path a line names; None for an event without a file."""
    if not line.startswith("{"):
        return Path(line)
    try:
        event = read_json(line)
    except ValueError as error:
        raise UsageError(f"stdin: not a path and not an event: {line[:80]}") from error
    if "event" not in event:
        raise UsageError(f"stdin: not a path and not an event: {line[:80]}")
    if event["event"] == "error":
        raise UsageError(
            "stdin: the command before this one failed, so its models are incomplete",
            detail=str(event.get("message", "")),
        )
    if event["event"] != "result" or "path" not in event:
        return None
    if not isinstance(event["path"], str):
        raise UsageError(f"stdin: an event whose path is no text: {line[:80]}")
    return Path(event["path"])

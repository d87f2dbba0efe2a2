"""Paths of models, typed or from another command's standard output, and of files to be written."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.errors import UsageError
from rebasin_cli.json_text import read_json
from rebasin_cli.options.parameters import option

# Byte order marks of what is not UTF-8; the longer ones first, as they begin like the others.
WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Null = Annotated[
    bool, option("Files")("--null", "-0", help="Paths on stdin end in NUL, as of `find -print0`.")
]


def model_paths(models: Sequence[Path] | None) -> list[Path]:
    """Return the MODEL arguments, `~` expanded."""
    return [named_path(model) for model in models or ()]


def piped_paths(models: Sequence[Path] | None, *, null: bool) -> list[Path]:
    """Return the MODEL arguments, or if there are none the paths on stdin, unless a person types.

    stdin holds one path a line, or NDJSON events of another rebasin command, or with `null`
    paths that end in NUL. Raises UsageError if an event says that the other command failed.
    """
    if models or sys.stdin is None or sys.stdin.isatty():
        return model_paths(models)
    return [named_path(path) for path in parse_paths(sys.stdin.buffer.read(), null=null)]


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


def refuse_loop(path: Path) -> None:
    """Raise UsageError for a link that leads round to itself: nothing can be written there."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path} is a link that leads to itself", hint="remove it, or name another"
            ) from error


def optional_file(path: str | None) -> Path | None:
    """Return the path of a file that may be asked for. Raises UsageError where it is a folder's."""
    if path is None:
        return None
    found = named_path(path)
    if path.endswith("/") or (not isinstance(found, RemotePath) and found.is_dir()):
        raise UsageError(f"{path} is a folder, and one file is written", hint="name a file in it")
    refuse_loop(found)
    return found

"""Paths from another command's standard output."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rebasin_cli.errors import UsageError


def parse_paths(data: bytes, *, null: bool) -> list[Path]:
    """Return the paths in what was piped in: lines, NUL-ended paths, or our NDJSON events.

    Raises UsageError if an event reports an error: the set of models is then incomplete.
    """
    if null:
        return [Path(os.fsdecode(part)) for part in data.split(b"\0") if part]
    lines = [line.rstrip("\r") for line in os.fsdecode(data).split("\n")]
    paths = [_path(line) for line in lines if line]
    return [path for path in paths if path is not None]


def _path(line: str) -> Path | None:
    """Return the path a line names; None for an event without a file."""
    if not line.startswith("{"):
        return Path(line)
    try:
        event = json.loads(line)
    except ValueError as error:
        raise UsageError(f"stdin: not a path and not an event: {line[:80]}") from error
    if event.get("event") == "error":
        raise UsageError(
            "stdin: the command before this one failed, so its models are incomplete",
            detail=str(event.get("message", "")),
        )
    if event.get("event") != "result" or "path" not in event:
        return None
    if not isinstance(event["path"], str):
        raise UsageError(f"stdin: an event whose path is no text: {line[:80]}")
    return Path(event["path"])

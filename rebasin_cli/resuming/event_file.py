"""Events in a file, one NDJSON line each: what is done is there at once, whatever comes after."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from rebasin_cli.errors import RebasinError, refusal_by_system
from rebasin_cli.json_text import read_json
from rebasin_cli.presentation.events import SCHEMA

START = (
    f'{{"schema":"{SCHEMA}"'.encode()
)  # of every line: what else is cut off is not ours to remove

RecordT = TypeVar("RecordT")


class EventFile(Generic[RecordT]):
    """The records in a file, and events that are added to it. path: None: in no file.

    parse: returns the record of an event, None for one about something else; where it raises
    ValueError, TypeError, KeyError or AttributeError, the file is refused with `what` and `hint`.
    A last line that was cut off, as a crash leaves it, is passed over and gives way to the next
    event; `cut` says so.
    """

    def __init__(
        self,
        path: Path | None,
        parse: Callable[[Mapping[str, Any]], RecordT | None],
        *,
        what: str,
        hint: str,
    ) -> None:
        self.path, self.cut = path, False
        self._end: int | None = None  # of what is whole, where something follows
        self._unended = False
        self._parse, self._what, self._hint = parse, what, hint
        there = path is not None and path.exists()
        self.records = tuple(self._read(path)) if path and there else ()

    def add(self, fields: Mapping[str, Any]) -> None:
        """Write an event to the file at once."""
        if self.path is None:
            return
        line = json.dumps(fields, separators=(",", ":"), allow_nan=False)
        try:
            if self._end is not None:
                os.truncate(self.path, self._end)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n" if self._unended else f"{line}\n")
        except OSError as error:
            raise refusal_by_system(error, str(self.path), what="cannot write") from error
        self._end, self._unended = None, False

    def _read(self, path: Path) -> Iterator[RecordT]:
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found = self._parsed(read_json(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if number == len(lines) and _cut_off(line):
                    self.cut, self._end = True, sum(map(len, lines[:-1]))
                    return
                where = f"{path}:{number}"
                raise RebasinError(self._what, where=where, hint=self._hint) from error
            if found is not None:
                yield found
        self._unended = bool(lines) and not lines[-1].endswith(b"\n")

    def _parsed(self, event: Mapping[str, Any]) -> RecordT | None:
        if event["schema"] != SCHEMA:
            raise ValueError(event["schema"])
        return self._parse(event)


def _cut_off(line: bytes) -> bool:
    """Return whether a line is the beginning of an event of ours."""
    whole = line.endswith(b"\n")
    return not whole and (line.startswith(START) or START.startswith(line))

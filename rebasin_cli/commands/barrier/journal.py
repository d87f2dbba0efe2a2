"""Points of a curve in a file, one NDJSON event a line, so that a later run need not repeat them.

The lines are those that `rebasin barrier --json` prints; events of other kinds are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rebasin_cli.commands.barrier.scored_points import MixturePoint, Scored
from rebasin_cli.errors import MachineError, RebasinError
from rebasin_cli.json_text import read_json

HEAD = {"schema": "rebasin/1", "event": "result", "command": "barrier"}
START = b'{"schema":"rebasin/1"'  # of every line: what else is cut off is not ours to remove
DIGITS = 9  # of weights that are compared


class Journal:
    """The points in a file, and those that are added to it. path: None: in no file.

    Raises RebasinError for a file that holds anything else. A last line that was cut off, as a
    crash leaves it, is removed from the file; `cut` says so.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self.cut = path, False
        self._known: dict[str, Scored] = {}
        if path is not None and path.exists():
            for scored in self._points(path):
                self._known[_key(scored.mixture, scored.of)] = scored

    def find(self, mixture: MixturePoint, of: Mapping[str, Any]) -> Scored | None:
        """Return what is known of a mixture, if the same was judged there."""
        known = self._known.get(_key(mixture, of))
        return known and Scored(mixture, known.scores, known.seconds, of, reused=True)

    def add(self, scored: Scored) -> None:
        """Write a point to the file at once."""
        if self._path is None:
            return
        line = json.dumps({**HEAD, **scored.fields()}, separators=(",", ":"), allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            where, why = str(self._path), error.strerror or str(error)
            raise MachineError(f"cannot write: {why}", where=where) from error

    def _points(self, path: Path) -> Iterator[Scored]:
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found = _parsed(read_json(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if number == len(lines) and _cut_off(line):
                    self._shorten(path, len(line))
                    return
                raise RebasinError(
                    "not a point of a curve",
                    where=f"{path}:{number}",
                    hint="--resume takes a file that --resume or --json of this command wrote",
                ) from error
            if found is not None:
                yield found
        if lines and not lines[-1].endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")  # so that the next one stands by itself

    def _shorten(self, path: Path, count: int) -> None:
        """Take a line that was cut off away from the end of the file."""
        self.cut = True
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - count)


def _cut_off(line: bytes) -> bool:
    """Return whether a line is the beginning of an event of ours."""
    whole = line.endswith(b"\n")
    return not whole and (line.startswith(START) or START.startswith(line))


def _parsed(record: Mapping[str, Any]) -> Scored | None:
    """Return the point of an event; None for one that is about something else."""
    if record["schema"] != HEAD["schema"]:
        raise ValueError(record["schema"])
    if any(record.get(name) != value for name, value in HEAD.items()) or "curve" not in record:
        return None
    at = (float(record["x"]), float(record["y"])) if "x" in record else None
    mixture = MixturePoint(record["curve"], tuple(map(float, record["weights"])), at)
    scores = {str(name): float(value) for name, value in record["scores"].items()}
    return Scored(mixture, scores, float(record["seconds"]), dict(record["of"]))


def _key(mixture: MixturePoint, of: Mapping[str, Any]) -> str:
    """Return what makes two points the same, whatever rounding does to their places."""
    weights = [round(weight, DIGITS) + 0.0 for weight in mixture.weights]
    return json.dumps([mixture.curve, weights, dict(of)], sort_keys=True)

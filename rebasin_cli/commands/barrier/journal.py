"""Points of a curve in a file, one NDJSON event a line, so that a later run need not repeat them.

The lines are those that `rebasin barrier --json` prints; events of other kinds are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebasin_cli.commands.barrier.scored_points import MixturePoint, Scored
from rebasin_cli.presentation.events import SCHEMA
from rebasin_cli.resuming.event_file import EventFile

HEAD = {"schema": SCHEMA, "event": "result", "command": "barrier"}
DIGITS = 9  # of weights that are compared


class Journal:
    """The points in a file, and those that are added to it. path: None: in no file.

    Raises RebasinError for a file that holds anything else. `cut`: see `EventFile`.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = EventFile(
            path,
            _parsed,
            what="not a point of a curve",
            hint="--resume takes a file that --resume or --json of this command wrote",
        )
        self.cut = self._file.cut
        self._known = {_key(each.mixture, each.of): each for each in self._file.records}

    def find(self, mixture: MixturePoint, of: Mapping[str, Any]) -> Scored | None:
        """Return what is known of a mixture, if the same was judged there."""
        known = self._known.get(_key(mixture, of))
        return known and Scored(mixture, known.scores, known.seconds, of, reused=True)

    def add(self, scored: Scored) -> None:
        """Write a point to the file at once."""
        self._file.add({**HEAD, **scored.fields()})


def _parsed(record: Mapping[str, Any]) -> Scored | None:
    """Return the point of an event; None for one that is about something else."""
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

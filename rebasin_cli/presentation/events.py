"""Events for programs: one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from rebasin_cli.errors import RebasinError

SCHEMA = "rebasin/1"


def event_line(event: str, command: str, fields: Mapping[str, Any]) -> str:
    """Return one NDJSON line. Numbers that JSON has no word for become null."""
    record = {"schema": SCHEMA, "event": event, "command": command, **fields}
    return json.dumps(finite_json(record), separators=(",", ":"), allow_nan=False)


def error_fields(error: RebasinError) -> dict[str, Any]:
    """Return what an error event says: exit code, place, text, and every problem by itself."""
    return {
        "code": error.exit_code,
        "where": error.problems[0].where if error.problems else "",
        "message": str(error),
        "problems": [
            {"what": p.what, "where": p.where, "detail": p.detail, "hint": p.hint}
            for p in error.problems
        ],
    }


def finite_json(value: Any) -> Any:
    """Return JSON values with null for numbers that JSON has no word for."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    return [finite_json(item) for item in value] if isinstance(value, list) else value

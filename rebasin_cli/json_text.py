"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises ValueError if it is none, and where it is nested deeper than Python's stack: json.loads
    raises RecursionError then, which no caller expects of a text.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error

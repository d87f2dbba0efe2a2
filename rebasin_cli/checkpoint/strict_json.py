"""JSON objects read strictly: a key that occurs twice is a problem, not a choice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rebasin_cli.errors import CheckpointError
from rebasin_cli.wording import listing


def parse_object(data: bytes, *, where: str, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`; `what` names it in messages, as in `the header`.

    Raises CheckpointError if it is not UTF-8, not JSON, not an object, or has a key twice.
    """
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            count = Counter(key for key, _ in pairs)
            twice.extend(key for key in found if count[key] > 1)
        return found

    value = _parse(data, unique, where, what)
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object", where=where)
    if twice:
        names = listing([repr(key) for key in twice])
        raise CheckpointError(f"{what} has duplicate keys: {names}", where=where)
    return value


def _parse(data: bytes, unique: Any, where: str, what: str) -> object:
    try:
        parsed: object = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8: {error}", where=where) from error
    except ValueError as error:
        raise CheckpointError(f"{what} is not JSON: {error}", where=where) from error
    except RecursionError as error:
        raise CheckpointError(f"{what} is nested too deeply", where=where) from error
    return parsed

"""Numbers and lists in words, for people; the texts of all floors are made with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")

MORE = " and {} more"  # 1024 of them
MORE_IN_GROUPS = " and {:,} more"  # 1,024 of them
AND_SO_ON = ", ..."  # where their number does not matter


def plural(number: int, noun: str) -> str:
    """Return `group`, `groups` or `biases`, without the number."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{noun}{ending}"


def count(number: int, noun: str) -> str:
    """Return `1 group`, `1,024 groups` or `2 biases`."""
    return f"{number:,} {plural(number, noun)}"


def size_text(size: float) -> str:
    """Return `3.73 MB`: decimal units, as disks and the safetensors tools count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def and_more(number: int) -> str:
    """Return `and 5 more`, an item of its own behind those that are shown."""
    return f"and {number} more"


def shorten(items: Sequence[ItemT], most: int, rest: Callable[[int], ItemT]) -> list[ItemT]:
    """Return the first `most` items, and if there are more, an item that tells how many."""
    more = len(items) - most
    return [*items[:most], rest(more)] if more > 0 else list(items)


def list_names(names: Sequence[str], most: int, *, rest: str = MORE) -> str:
    """Return the first `most` names as one line, and if there are more, what tells of them.

    rest: a format for their number, such as MORE.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (rest.format(more) if more > 0 else "")


def listing(names: Sequence[str], *, most: int = 12) -> str:
    """Return names as refusals list them: one line, `and 5 more` its last item."""
    return ", ".join(shorten(names, most, and_more))

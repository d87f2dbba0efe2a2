"""How texts with long lines differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import zip_longest

_CONTEXT, _SHOWN = 60, 300  # characters


def hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield what differs, below the command line that it belongs to."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind != "equal":
            yield from [line for line in old[:start] if line.startswith("$ ")][-1:]
            yield from _hunk(old[start:end], new[first:last])


def _hunk(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield lines side by side from shortly before they differ: events are long."""
    for one, other in zip_longest(old, new, fillvalue=""):
        letters = enumerate(zip(one, other, strict=False))
        start = max(0, next((k for k, (x, y) in letters if x != y), 0) - _CONTEXT)
        shown = slice(start, start + _SHOWN)
        yield from (f"{sign} {line[shown]}" for sign, line in (("-", one), ("+", other)) if line)

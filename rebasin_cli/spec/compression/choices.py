"""Patterns with one right-hand side written as one pattern with choices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M")
_MOST = 8  # alternatives in one choice: longer lists are hard to read
_CHOOSABLE = re.compile(r"(?P<head>[^{}\[\],*]+)(?P<tail>(?:\{[A-Za-z.]+\})?)")

Components = tuple[str, ...]


@dataclass(frozen=True)  # Python 3.10 has no named tuples that are generic
class Line(Generic[M]):
    """A line of a spec: a name pattern and its meaning. order: what lines are sorted by."""

    pattern: str
    meaning: M
    order: tuple[int, ...]


def with_choices(lines: Iterable[Line[M]]) -> list[Line[M]]:
    """Return fewer lines that say the same, sorted.

    A choice stands in the last component of names, and in one more. It gathers only what was
    there: every combination of its alternatives was a pattern before. So it matches no other
    names, and what was more specific than one of its patterns is so still.
    """
    by_meaning: defaultdict[M, list[Line[M]]] = defaultdict(list)
    for line in lines:
        by_meaning[line.meaning].append(line)
    merged = (line for same in by_meaning.values() for line in _merge_lines(same))
    return sorted(merged, key=lambda line: line.order)


def _merge_lines(lines: Sequence[Line[M]]) -> Iterator[Line[M]]:
    ordered = sorted(lines, key=lambda line: line.order)
    found = {tuple(line.pattern.split(".")): line.order for line in ordered}
    found = _gathered(found, -1)
    longest = max(map(len, found))
    done: dict[Components, tuple[int, ...]] = {}
    for place in range(-2, -longest - 1, -1):  # from the end, each name in one place at most
        short = {c: order for c, order in found.items() if len(c) < -place}
        fresh = _gathered({c: order for c, order in found.items() if len(c) >= -place}, place)
        done |= {c: order for c, order in fresh.items() if c not in found}
        found = short | {c: order for c, order in fresh.items() if c in found}
    for components, order in (found | done).items():
        yield Line(".".join(components), lines[0].meaning, order)


def _gathered(
    found: dict[Components, tuple[int, ...]], place: int
) -> dict[Components, tuple[int, ...]]:
    """Return patterns with one component gathered where all the others are equal."""
    alike: defaultdict[tuple[Components, Components, str], list[Components]] = defaultdict(list)
    gathered: dict[Components, tuple[int, ...]] = {}
    for components, order in found.items():
        match = _CHOOSABLE.fullmatch(components[place])
        if match is None or "*" in components:
            gathered[components] = order
        else:
            key = components[:place], components[place:][1:], match["tail"]
            alike[key].append(components)
    for (before, after, tail), members in alike.items():
        for start in range(0, len(members), _MOST):
            some = members[start : start + _MOST]
            choice = some[0][place] if len(some) == 1 else _choice(some, place, tail)
            written = (*before, choice, *after)
            gathered[written] = min(found[c] for c in some)
    return gathered


def _choice(members: Sequence[Components], place: int, tail: str) -> str:
    heads = [member[place].removesuffix(tail) for member in members]
    return f"{{{','.join(heads)}}}{tail}"

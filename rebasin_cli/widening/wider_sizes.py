"""How many units groups are to have: said by name, or those of another model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import Problem, UsageError, suggest
from rebasin_cli.files.headers import headers_of
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.bundled import bound_to
from rebasin_cli.wording import listing

ValueT = TypeVar("ValueT")

_SAID = re.compile(r"(?P<glob>[^=]+)=(?:(?P<count>[1-9]\d*)|(?P<times>\d+(?:\.\d+)?)x)")


def is_size(text: str) -> bool:
    """Return whether a text is `GROUP=N` or `GROUP=1.5x`, and no path."""
    return _SAID.fullmatch(text) is not None


def said_sizes(bound: BoundSpec, texts: Sequence[str]) -> dict[str, int]:
    """Return the sizes that texts such as `hidden.*=512` and `hidden.*=2x` give to groups.

    Of several for one group the last one counts; N times rounds to the nearest. Raises UsageError
    for a name that no group has.
    """
    said = [found for text in texts if (found := _SAID.fullmatch(text))]
    sizes = checked_sizes(bound, {one["glob"]: one for one in said})
    return {
        name: int(one["count"])
        if one["count"]
        else round(bound.groups[name].size * float(one["times"]))
        for name, one in sizes.items()
    }


def checked_sizes(bound: BoundSpec, said: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Return values by the names of groups. said: the values by globs over names.

    Raises UsageError for a glob that no group has.
    """
    found: dict[str, ValueT] = {}
    problems = []
    for glob, value in said.items():
        names = [name for name in bound.groups if fnmatchcase(name, glob)]
        found |= dict.fromkeys(names, value)
        if not names:
            hint = suggest(glob, bound.groups) or f"groups: {listing(list(bound.groups))}"
            problems.append(Problem(f"no group is called {glob!r}", hint=hint))
    if problems:
        raise UsageError(*problems)
    return found


def sizes_of(bound: BoundSpec, wide: Checkpoint, selection: Selection) -> Mapping[str, int]:
    """Return the sizes that the groups of a spec have in another model.

    Raises SpecError where the spec does not fit it.
    """
    other = bound_to(bound.spec, headers_of([wide]), selection)
    return {name: group.size for name, group in other.groups.items() if name in bound.groups}

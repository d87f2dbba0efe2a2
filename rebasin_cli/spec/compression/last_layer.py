"""`{last}` in the entries of single tensors: a head reads what the last layer writes.

With a number the spec would hold for one depth alone. Only where the group of that number is the
last of a row that templates make: other numbers tell things apart that are not layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Any

from rebasin_cli.spec.compression.choices import Line
from rebasin_cli.spec.compression.forms import MARK, prefixes_of, rename_groups
from rebasin_cli.spec.compression.items import ATTACHED
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME


class TemplateGroups:
    """The names of all groups of a spec, and of those that its templates name."""

    def __init__(self, names: Iterable[str], templated: Iterable[str]) -> None:
        self._all, self._templated = _indices(names), _indices(templated)

    def with_last(self, line: Line[Any], kept: Container[str]) -> Line[Any]:
        """Return the line of one tensor with `{last}` for the number of a template's last group.

        Other lines are returned as they are: there `{last}` means the last of their own index.
        kept: names that stay. A number that the tensor's own name has too, or another one at that
        place, stays as well: there it says which of several layers this is.
        """
        if "{" in line.pattern:
            return line
        own = prefixes_of(INDEX_IN_NAME.split(line.pattern))
        numbers = set(INDEX_IN_NAME.findall(line.pattern))

        def rename(name: str) -> str:
            index = None if name in kept else self._index(name)
            if index is None or index[0] in numbers:
                return name
            before, after = name[: index.start()], name[index.end() :]
            return name if INDEX_IN_NAME.sub(MARK, before) in own else f"{before}{{last}}{after}"

        return replace(line, meaning=rename_groups(line.meaning, rename))

    def _index(self, name: str) -> re.Match[str] | None:
        """Return the index that templates vary the most, if it is the last one there.

        The last of the groups of templates and of all others: another may go on with the row.
        """

        def found(index: re.Match[str]) -> set[int]:
            return self._templated.get(_key(name, index), set())

        index = max(INDEX_IN_NAME.finditer(name), key=lambda i: len(found(i)), default=None)
        if index is None:
            return None
        least = 2 if name[: index.start()][-1:] in ("", ".") else ATTACHED
        here = found(index)
        top = int(index[0]) == max(here, default=-1) == max(self._all[_key(name, index)])
        return index if top and len(here) >= least else None


def _key(name: str, index: re.Match[str]) -> tuple[str, str]:
    return name[: index.start()], name[index.end() :]


def _indices(names: Iterable[str]) -> dict[tuple[str, str], set[int]]:
    found: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        for index in INDEX_IN_NAME.finditer(name):
            found[_key(name, index)].add(int(index[0]))
    return dict(found)

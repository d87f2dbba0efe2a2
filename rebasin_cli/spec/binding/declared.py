"""What is known of groups and sizes before any shape is looked at."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.expression import TEMPLATE
from rebasin_cli.spec.language.model import (
    Declaration,
    Spec,
    TextPlace,
    entry_names,
)
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.tensor_names import INDEX


class Sizes:
    """Named sizes: from `--set` first, then `sizes:`, then the `config.` path itself."""

    def __init__(self, spec: Spec, given: Mapping[str, int], config: Mapping[str, Any]) -> None:
        self._spec, self._given, self._config = spec, given, config

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in self._given or name in self._spec.sizes or name.startswith("config.")

    def find(self, size: int | str, at: TextPlace | None, problems: Problems) -> int | None:
        """Return a size's value, or None after a problem was added."""
        if isinstance(size, int):
            return size
        if size in self._given:
            return self._given[size] if self._given[size] > 0 else None
        path = self._spec.sizes.get(size, size)
        if isinstance(path, int):
            return path
        value = self.configured(path)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        missing = f"config.json has no {path.removeprefix('config.')!r}"
        problems.add(
            f"the size {size!r} is not available",
            at,
            detail=missing if value is None else f"{path} is {value!r}, not a positive integer",
            hint=f"--set {size}=N",
            kind=f"size {size}",
        )
        return None

    def configured(self, path: str) -> Any:
        """Return what stands at a `config.` path of config.json; None if nothing does."""
        value: Any = self._config
        for key in path.split(".")[1:]:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _listed(self) -> str:
        names = ", ".join(self._spec.sizes)
        return f"its sizes are: {names}" if names else "this spec has no named sizes"

    def check_given(self, problems: Problems) -> None:
        """Add a problem for each size of --set that the spec does not use, or that is below 1."""
        entries = self._spec.tensors.values()
        used = {name for entry in entries for name in entry_names(entry)}
        declared = {declaration.size for declaration in self._spec.groups.values()}
        known = used | declared | self._spec.sizes.keys()
        for name, value in self._given.items():
            if name not in known:
                hint = suggest(name, self._spec.sizes) or self._listed()
                problems.add(f"the spec has no size {name!r}", None, hint=hint)
            if value < 1:
                problems.add(f"size {name!r} is given as {value}, it is at least 1", None)


@dataclass(frozen=True)
class Declared:
    """The declaration of one concrete group; key: its name in the spec, with templates."""

    key: str
    size: int | str | None
    per: str | None
    fixed: bool
    one_sided: bool
    maps: str


def declared_groups(spec: Spec, groups: Iterable[str], problems: Problems) -> dict[str, Declared]:
    """Return the declarations of groups by concrete name; the one with fewest indices wins."""
    found: dict[str, Declared] = {}
    names = tuple(groups)
    for key, declaration in spec.groups.items():
        shape, place = _shape(key), spec.places.get(("groups", key))
        matched = [match for match in map(shape.fullmatch, names) if match]
        if not matched and not problems.doubtful(key) and not problems.absent(key):
            problems.add(f"no group is called {key!r}", place, hint=suggest(key, names))
        for match in matched:
            other = found.get(match[0])
            if other is not None and _free(other.key) == _free(key):
                what = f"{other.key!r} and {key!r} both declare group {match[0]!r}"
                problems.add(what, place, kind=f"declared {other.key}")
            if other is None or _free(key) < _free(other.key):
                found[match[0]] = _concrete(key, declaration, match)
    return found


def _concrete(key: str, declaration: Declaration, indices: re.Match[str]) -> Declared:
    per = declaration.per and TEMPLATE.sub(lambda t: indices[f"i_{t[1]}"], declaration.per)
    return Declared(
        key, declaration.size, per, declaration.fixed, declaration.one_sided, declaration.maps
    )


def _free(key: str) -> int:
    return len(set(TEMPLATE.findall(key)))


def _shape(key: str) -> re.Pattern[str]:
    """Return the regular expression of the concrete names of a declared group."""
    parts = TEMPLATE.split(key)
    seen: set[str] = set()
    for position, part in enumerate(parts):
        if position % 2 == 0:
            parts[position] = re.escape(part)
        else:
            parts[position] = f"(?P=i_{part})" if part in seen else f"(?P<i_{part}>{INDEX})"
            seen.add(part)
    return re.compile("".join(parts))


def declared_parents(
    spec: Spec, declared: Mapping[str, Declared], groups: Collection[str], problems: Problems
) -> dict[str, str]:
    """Return child -> parent, where the parent exists and no group is above itself."""
    per = {name: d.per for name, d in declared.items() if d.per is not None}
    for name, parent in list(per.items()):
        at = spec.places.get(("groups", declared[name].key, "per"))
        line = ancestry(per, name)
        if name in line[1:]:
            what = f"group {name!r} is its own parent: {' per '.join(line)}"
        elif parent not in groups:
            what = f"group {name!r} is per {parent!r}, which no tensor has"
        else:
            continue
        del per[name]
        if not problems.doubtful(parent):
            problems.add(what, at, kind="parent")
    return per


def ancestry(per: Mapping[str, str], name: str) -> list[str]:
    """Return a group, its parent, and so on; a circle ends where it closes."""
    line = [name]
    while line[-1] in per and line[-1] not in line[:-1]:
        line.append(per[line[-1]])
    return line

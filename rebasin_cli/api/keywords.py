"""The keyword options of the library: those of the command line, under the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from rebasin_cli.options.computing import Computing
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection, parse_renames
from rebasin_cli.options.tracing import Tracing


class Options(TypedDict, total=False):
    """Options that the verbs take as keywords; each is described by `rebasin align --help`.

    sizes: as --set. rename: `OLD=NEW` or `N:OLD=NEW`, one or several.
    """

    sizes: Mapping[str, int]
    strict: bool
    only: Sequence[str]
    skip: Sequence[str]
    pass_through: Sequence[str]
    key: str | None
    rename: str | Sequence[str]
    ignore_classes: bool
    dequantize: bool
    method: str
    effort: str
    start: str | None
    restarts: int
    order: str
    loss: str
    fast: bool
    device: str
    jobs: int
    max_memory: int | None
    seed: int


@dataclass(frozen=True)
class Groups:
    """Keyword options in the groups that the commands have them in."""

    selection: Selection
    search: Search
    computing: Computing
    tracing: Tracing


def groups_of(spec: str | None, options: Mapping[str, Any]) -> Groups:
    """Return the groups of keyword options. Raises TypeError for one that there is not."""
    given = dict(options)
    renames = given.pop("rename", ())
    texts = [renames] if isinstance(renames, str) else list(renames)
    for name in ("only", "skip", "pass_through"):
        if isinstance(given.get(name), str):
            given[name] = (given[name],)
    selection = Selection(spec=spec, renames=parse_renames(texts), **_taken(Selection, given))
    search, computing = Search(**_taken(Search, given)), Computing(**_taken(Computing, given))
    if given:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"there is no option {next(iter(given))!r}; there are {known}")
    return Groups(selection, search, computing, Tracing())


def _taken(group: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Take out of the options what is a field of a group."""
    names = [f.name for f in fields(group) if f.name in given and f.name in Options.__annotations__]
    return {name: given.pop(name) for name in names}

"""The keyword options of the library: those of the command line, under the same names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import inf
from numbers import Integral
from types import UnionType
from typing import Any, SupportsFloat, TypedDict, Union, get_args, get_origin, get_type_hints

import torch

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.parameters import FLAG
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Rename, Selection, parse_renames
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.options.values import parse_size, read_value


class Options(TypedDict, total=False):
    """Options that the verbs take as keywords; each is described by `rebasin align --help`.

    sizes: by name, as `--set`. rename: `OLD=NEW` or `N:OLD=NEW`, one or several. max_memory: bytes,
    or text such as `8GB`.
    """

    sizes: Mapping[str, int]
    strict: bool
    only: str | Sequence[str]
    skip: str | Sequence[str]
    pass_through: str | Sequence[str]
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
    device: str | torch.device
    jobs: int
    max_memory: int | str | None
    seed: int


@dataclass(frozen=True)
class Groups:
    """Keyword options in the groups that the commands have them in."""

    selection: Selection
    search: Search
    computing: Computing
    tracing: Tracing


def groups_of(spec: str | None, options: Mapping[str, Any]) -> Groups:
    """Return the groups of keyword options.

    Raises TypeError for one that there is not or that is of another type, UsageError for a value
    that cannot be.
    """
    given = {name: _checked(name, value) for name, value in options.items()}
    renames = renames_of(given.pop("rename", ()))
    for name in ("only", "skip", "pass_through"):
        if name in given:
            given[name] = texts(given[name])
    if given.get("max_memory") is not None:
        given["max_memory"] = read_value(parse_size, str(given["max_memory"]))
    if isinstance(given.get("device"), torch.device):
        given["device"] = str(given["device"])
    for size, number in given.get("sizes", {}).items():
        if not isinstance(number, Integral):
            raise TypeError(f"sizes: {size!r} is {number!r}, and no whole number")
    selection = Selection(spec=spec, renames=renames, **_taken(Selection, given))
    search, computing = Search(**_taken(Search, given)), Computing(**_taken(Computing, given))
    return Groups(selection, search, computing, Tracing())


def renames_of(rename: str | Sequence[str]) -> tuple[Rename, ...]:
    """Return what one or several texts `OLD=NEW` stand for; UsageError if they are none."""
    return read_value(parse_renames, list(texts(rename)))


def texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is given as one text or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def is_number(value: object) -> bool:
    """Return whether a value is one number, of Python, NumPy or torch."""
    return isinstance(value, SupportsFloat) and not getattr(value, "shape", ())


def numbers(name: str, value: object) -> list[float]:
    """Return what an argument has, one number or several. Raises TypeError for anything else."""
    each = [value] if is_number(value) else value
    if isinstance(each, Iterable) and not isinstance(each, str):
        found = list(each)
        if all(map(is_number, found)):
            return [float(one) for one in found]
    raise TypeError(f"{name}={value!r}: expected a number or several")


def count(name: str, value: object, *, least: int) -> int:
    """Return a whole number. Raises TypeError for what is none, UsageError for a smaller one."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected a whole number")
    if value < least:
        raise UsageError(f"{name}={value}: expected {least} at least")
    return int(value)


def _checked(name: str, value: Any) -> Any:
    """Return the value of an option if it is of its type, whole numbers as those of Python."""
    if name not in _kinds():
        hint = suggest(name, _kinds()) or f"there are {', '.join(_kinds())}"
        raise TypeError(f"there is no option {name!r}; {hint}")
    number = isinstance(value, Integral) and not isinstance(value, bool)
    found = int(value) if number else value
    if not _is(found, _kinds()[name]):
        expected = Options.__annotations__[name]
        text = getattr(expected, "__forward_arg__", expected)
        raise TypeError(f"{name}={value!r}: expected {text}")
    most = _largest(name)
    if number and not 0 <= found <= most:
        wanted = "that is not negative" if most == inf else f"from 0 to {most}"
        raise UsageError(f"{name}={value}: expected a number {wanted}")
    return found


def _largest(name: str) -> float:
    """Return the largest number that the command line takes for an option."""
    flags = (f.metadata[FLAG] for f in (*fields(Search), *fields(Computing)) if f.name == name)
    return max((flag.declared.get("max", inf) for flag in flags), default=inf)


@cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(Options)


def _is(value: object, kind: Any) -> bool:
    """Return whether a value is of a type: that of what is inside is not looked at."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return any(_is(value, one) for one in get_args(kind))
    plain = get_origin(kind) or kind
    return isinstance(value, plain) and not (plain is int and isinstance(value, bool))


def _taken(group: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are fields of a group."""
    return {f.name: given[f.name] for f in fields(group) if f.name in given}

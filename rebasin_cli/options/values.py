"""The values in option texts: paths, sizes, numbers, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from rebasin_cli.checkpoint.failures import refuse_loop
from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.errors import UsageError

Given = TypeVar("Given")
Meant = TypeVar("Meant")


def read_value(parse: Callable[[Given], Meant], given: Given) -> Meant:
    """Return what a value stands for, given where no command line is; UsageError if nothing."""
    try:
        return parse(given)
    except typer.BadParameter as error:
        raise UsageError(str(error)) from error


def parse_size(text: str | None) -> int | None:
    """Return the bytes that `8GB`, `500 MiB` or `1e9` stand for.

    >>> parse_size("1.5 KiB")
    1536
    """
    if text is None:
        return None
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    units |= {f"{k}i": 1024**n for n, k in enumerate("kmgt", 1)}
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9])?)\s*([kmgt]i?)?b?", text.strip().lower())
    if not found:
        raise typer.BadParameter(f"{text!r} is not a size such as 8GB or 500MiB")
    size = int(float(found[1]) * units[found[2] or ""])
    if size == 0:
        raise typer.BadParameter(f"a size of {text} leaves no room for anything")
    return size


def parse_sizes(pairs: Sequence[str] | None) -> dict[str, int]:
    """Return named sizes from `heads=12` and the like."""
    sizes = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        if not name or not re.fullmatch("[0-9]{1,18}", value):
            raise typer.BadParameter(f"{pair!r} is not NAME=INTEGER, such as heads=12")
        sizes[name] = int(value)
    return sizes


def parse_numbers(texts: Sequence[str] | None) -> list[float]:
    """Return the numbers of `0.25,0.5` given once or several times."""
    return [_number(part) for text in texts or () for part in text.split(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no number; expected some as in 0.25,0.5") from error


def parse_names(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return names that were given one by one or with commas between them."""
    return tuple(name for text in texts or () for name in text.split(",") if name)


def in_tuple(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return what was given several times, or not at all."""
    return tuple(texts or ())


def optional_file(path: str | None) -> Path | None:
    """Return the path of a file that may be asked for.

    Raises UsageError where there is a folder, a device or a pipe.
    """
    if path is None:
        return None
    found = named_path(path)
    here = not isinstance(found, RemotePath)
    if path.endswith("/") or (here and found.is_dir()):
        raise UsageError(f"{path} is a folder, and one file is written", hint="name a file in it")
    refuse_loop(found)
    if here and found.exists() and not found.is_file():
        raise UsageError(f"{path} is not a regular file", hint="name another")
    return found


def optional_path(path: str | Path | None) -> Path | None:
    """Return a path that may not have been given, `~` expanded."""
    return None if path is None else named_path(path)

"""What a command's options say, as one frozen value."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

from rebasin_cli.options.activations import activations_from
from rebasin_cli.options.data import running_from
from rebasin_cli.options.learning import learning_from
from rebasin_cli.options.parameters import home_path, parse_size, parse_sizes
from rebasin_cli.options.search import searching_from
from rebasin_cli.options.tracing import tracing_from

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Options, Rename


def renames_from(texts: Sequence[str] | None) -> tuple[Rename, ...]:
    """Return what `OLD=NEW` and `2:OLD=NEW` stand for.

    The last = counts: an expression may hold others, as in `(?=`, and names hold none.
    """
    from rebasin_cli.options.groups import Rename

    renames = []
    for text in texts or ():
        found = re.fullmatch(r"(?:([1-9][0-9]{0,3}):)?(.+)=([^=]*)", text)
        if not found:
            raise typer.BadParameter(f"{text!r} is not OLD=NEW, such as '^net\\.=model.'")
        renames.append(Rename(found[2], found[3], int(found[1]) if found[1] else None))
    return tuple(renames)


def options_from(params: Mapping[str, Any]) -> Options:
    """Return the common options among a command's parameters."""
    from rebasin_cli.options.groups import Options

    known = {f.name for f in fields(Options)}
    chosen = {name: value for name, value in params.items() if name in known}
    chosen["tracing"] = tracing_from(params)
    chosen["search"] = searching_from(params)
    chosen["running"] = running_from(params)
    chosen["activations"] = activations_from(params)
    chosen["learning"] = learning_from(params)
    chosen["renames"] = renames_from(params.get("renames"))
    if "max_memory" in chosen:
        chosen["max_memory"] = parse_size(chosen["max_memory"])
    if "sizes" in chosen:
        chosen["sizes"] = parse_sizes(chosen["sizes"])
    for name in ("only", "skip", "pass_through"):
        chosen[name] = tuple(chosen.get(name) or ())
    if chosen.get("out"):
        chosen["out_folder"] = chosen["out"].endswith("/")
        chosen["out"] = home_path(chosen["out"])
    chosen["card"] = shlex.join(["rebasin", *sys.argv[1:]]) if params.get("card") else None
    chosen["margins"] = bool(params.get("verbose"))
    chosen["figures"] = chosen["margins"] or bool(params.get("json_"))
    return Options(**chosen)

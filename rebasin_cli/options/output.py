"""Where results go, and in which form."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import optional_file, parse_size

_file = flags_in("Files")


def _command_line(wanted: bool) -> str | None:
    """Return the command line, for the model card, if one is wanted."""
    return shlex.join(["rebasin", *sys.argv[1:]]) if wanted else None


def _no_stream(out: str | None) -> str | None:
    """Return -o as it is. Raises BadParameter for what elsewhere means stdout."""
    if out == "-":
        raise typer.BadParameter("-o - names no file, and results go to files: ./- is one")
    return out


@dataclass(frozen=True)
class Output:
    """Where and how results are written.

    out: a file, or a folder; with a slash at its end it is a folder even if it is not there yet.
    card: the command line that a model card is to show; None: no card is written. drop_rest:
    nothing else is written of a nested file but its parts with weights. format, dtype: of the
    result; None and `keep`: those of the input. max_shard_size: bytes of tensors in a file of a
    folder; None: files as the input's.
    """

    out: str | None = _file(
        "--out",
        "-o",
        parse=_no_stream,
        metavar="PATH",
        help="File for one result, folder for several.",
    )
    card: str | None = _file(
        "--card",
        kind=bool,
        default=False,
        parse=_command_line,
        help="Also write a model card: README.md of a folder, NAME.card.md else.",
    )
    drop_rest: bool = _file(
        "--drop-rest", default=False, help="Write nothing of a .pt but the parts with weights."
    )
    format: str | None = _file("--format", metavar="safetensors|pt", help="Default: the input's.")
    dtype: str = _file(
        "--dtype",
        default="keep",
        metavar="keep|float32|bfloat16|float16",
        help="Of floating tensors in the output.",
    )
    max_shard_size: int | None = _file(
        "--max-shard-size",
        kind=str | None,
        parse=parse_size,
        metavar="SIZE",
        help="Write a folder of safetensors files of at most this size, as 5GB, and their index; "
        "default: as the input's.",
    )
    force: bool = _file("--force", "-f", default=False, help="Replace existing outputs.")
    no_clobber: bool = _file(
        "--no-clobber", default=False, help="Leave existing outputs as they are and go on."
    )
    in_place: bool = _file(
        "--in-place", default=False, help="Let an output replace the input it comes from."
    )

    @staticmethod
    def check_flags(given: Mapping[str, Any]) -> None:
        """Raise for --no-clobber together with a flag that replaces existing files."""
        if given.get("no_clobber") and (given.get("force") or given.get("in_place")):
            other = "--force" if given.get("force") else "--in-place"
            raise typer.BadParameter(f"{other} replaces what is there, and --no-clobber keeps it")

    @property
    def path(self) -> Path | None:
        """The place that --out names, `~` expanded."""
        return named_path(self.out) if self.out else None

    @property
    def names_folder(self) -> bool:
        """Whether --out was written with a slash at its end."""
        return bool(self.out) and str(self.out).endswith("/")


PLACING = ("out", "force", "no_clobber")  # of a result that is no checkpoint
FORMING = ("drop_rest", "format", "dtype", "max_shard_size", "force", "no_clobber", "in_place")


def resume_option() -> Any:
    """Return what declares --resume of a command that lists what is finished."""
    return _file(
        "--resume",
        kind=str | None,
        parse=optional_file,
        metavar="FILE",
        help="List here what is finished (NDJSON), and go on from there if it is interrupted.",
    )


def save_permutation_option() -> Any:
    """Return what declares --save-permutation."""
    return _file(
        "--save-permutation",
        metavar="FILE",
        help="Also write the permutation: a file for one model, a folder for several.",
    )

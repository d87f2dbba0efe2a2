"""Which spec, which tensors, and how the files are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import typer

from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import in_tuple, parse_sizes

_spec, _file = flags_in("Spec"), flags_in("Files")


@dataclass(frozen=True)
class Rename:
    """A regular expression over the names in files, and what it becomes.

    model: the number of the one model that it is for, from 1; None: all.
    """

    old: str
    new: str
    model: int | None = None

    def __str__(self) -> str:
        return f"{f'{self.model}:' if self.model else ''}{self.old}={self.new}"


def parse_renames(texts: Sequence[str] | None) -> tuple[Rename, ...]:
    """Return what `OLD=NEW` and `2:OLD=NEW` stand for.

    The last = counts: an expression may hold others, as in `(?=`, and names hold none.
    """
    renames = []
    for text in texts or ():
        found = re.fullmatch(r"(?:([1-9][0-9]{0,3}):)?(.+)=([^=]*)", text)
        if not found:
            raise typer.BadParameter(f"{text!r} is not OLD=NEW, such as '^net\\.=model.'")
        renames.append(Rename(found[2], found[3], int(found[1]) if found[1] else None))
    return tuple(renames)


@dataclass(frozen=True)
class Selection:
    """Which spec describes the models, which of their tensors take part, how files are read.

    spec: name or file; None: that of the traced model, else chosen from the bundled ones.
    only, skip: globs over tensor names. pass_through: of those that a spec need not name. common:
    tensors may have other shapes, and what both have counts. key: dotted path to the state dict
    inside a .pt file. only_part: as key, and no other part follows it. renames: applied in turn to
    the names in files. ignore_classes: leave out what nested files hold of foreign classes.
    dequantize: read codes and scales as the weights that they stand for.
    """

    spec: str | None = _spec(
        "--spec", metavar="NAME|FILE", help="Spec; default: the bundled one that fits."
    )
    sizes: Mapping[str, int] = _spec(
        "--set",
        kind=list[str] | None,
        parse=parse_sizes,
        metavar="NAME=N",
        help="A named size, as heads=12.",
    )
    strict: bool = _spec(
        "--strict", default=False, help="Refuse tensors the spec does not mention."
    )
    only: Sequence[str] = _spec(
        "--only",
        kind=list[str] | None,
        parse=in_tuple,
        metavar="GLOB",
        help="Only these tensors; repeatable.",
    )
    skip: Sequence[str] = _spec(
        "--skip",
        kind=list[str] | None,
        parse=in_tuple,
        metavar="GLOB",
        help="Not these tensors; repeatable.",
    )
    pass_through: Sequence[str] = _spec(
        "--pass-through",
        kind=list[str] | None,
        parse=in_tuple,
        metavar="GLOB",
        help="These hold no units; the spec need not name them.",
    )
    key: str | None = _file(
        "--key", metavar="PATH", help="Where the weights are in a .pt, as ema.model."
    )
    renames: Sequence[Rename] = _file(
        "--rename",
        kind=list[str] | None,
        parse=parse_renames,
        metavar="[N:]OLD=NEW",
        help="Read OLD, a regular expression in tensor names, as NEW; N: of model N only.",
    )
    ignore_classes: bool = _file(
        "--ignore-classes",
        default=False,
        help="Leave out objects of classes that a .pt may not hold.",
    )
    dequantize: bool = _file(
        "--dequantize", default=False, help="Read int8 and fp8 codes with scales as weights."
    )
    common: bool = _spec(
        "--common",
        default=False,
        help="Where vocabularies, classes or channels differ, take what both have; the rest stays "
        "as it is in the first model.",
    )
    only_part: str | None = _file(
        "--only-part",
        metavar="PATH",
        help="As --key, and no other part of the file with the same tensors follows.",
    )

    @property
    def part(self) -> str | None:
        """The part of a nested file that holds the weights, if it was named."""
        return self.key if self.only_part is None else self.only_part

    def selects(self, name: str) -> bool:
        """Return whether --only and --skip leave a tensor in the work."""
        if any(fnmatchcase(name, glob) for glob in self.skip):
            return False
        return not self.only or any(fnmatchcase(name, glob) for glob in self.only)

    @property
    def all_tensors(self) -> Selection:
        """The selection without --only and --skip."""
        return replace(self, only=(), skip=())

    def passing(self, globs: Sequence[str]) -> Selection:
        """Return the selection with more tensors that a spec need not name."""
        return replace(self, pass_through=(*self.pass_through, *globs))

    def passes(self, name: str) -> bool:
        """Return whether a tensor that no spec names is said to hold no units."""
        return any(fnmatchcase(name, glob) for glob in self.pass_through)

    def excuses(self, name: str) -> bool:
        """Return whether a spec need not name a tensor."""
        return self.passes(name) or not self.selects(name)


# The flags of commands that have no spec.
READING = ("key", "renames", "ignore_classes", "dequantize")
ALIGNING = ("spec", "sizes", "strict", "only", "skip", "pass_through", *READING)

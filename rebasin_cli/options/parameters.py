"""The options of all commands, declared once each, and how their texts are read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rebasin_cli.options.extend import extended, options_in

SPEC, FILES, MEANS, SHOWN = "Spec", "Files", "Machine", "Output"


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
        raise typer.BadParameter(f"--max-memory {text} leaves no room for anything")
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
    try:
        return [float(part) for text in texts or () for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; expected numbers such as 0.25,0.5") from error


_spec, _file = options_in(SPEC), options_in(FILES)
_machine, _shown = options_in(MEANS), options_in(SHOWN)

Spec = Annotated[
    str | None,
    _spec("--spec", metavar="NAME|FILE", help="Spec; default: the bundled one that fits."),
]
Sizes = Annotated[
    list[str] | None,
    _spec("--set", metavar="NAME=N", help="A named size, as heads=12."),
]
Strict = Annotated[bool, _spec("--strict", help="Refuse tensors the spec does not mention.")]
Only = Annotated[
    list[str] | None,
    _spec("--only", metavar="GLOB", help="Only these tensors; repeatable."),
]
Skip = Annotated[
    list[str] | None,
    _spec("--skip", metavar="GLOB", help="Not these tensors; repeatable."),
]
PassThrough = Annotated[
    list[str] | None,
    _spec(
        "--pass-through", metavar="GLOB", help="These hold no units; the spec need not name them."
    ),
]
Common = Annotated[
    bool,
    _spec(
        "--common",
        help="Where vocabularies, classes or channels differ, take what both have; the rest stays "
        "as it is in the first model.",
    ),
]
Key = Annotated[
    str | None,
    _file("--key", metavar="PATH", help="Where the weights are in a .pt, as ema.model."),
]
OnlyPart = Annotated[
    str | None,
    _file(
        "--only-part",
        metavar="PATH",
        help="As --key, and no other part of the file with the same tensors follows.",
    ),
]
DropRest = Annotated[
    bool, _file("--drop-rest", help="Write nothing of a .pt but the parts with weights.")
]
Dequantize = Annotated[
    bool,
    _file("--dequantize", help="Read int8 and fp8 codes with scales as weights."),
]
Renames = Annotated[
    list[str] | None,
    _file(
        "--rename",
        metavar="[N:]OLD=NEW",
        help="Read OLD, a regular expression in tensor names, as NEW; N: of model N only.",
    ),
]
IgnoreClasses = Annotated[
    bool,
    _file("--ignore-classes", help="Leave out objects of classes that a .pt may not hold."),
]
Out = Annotated[
    str | None,
    _file("--out", "-o", help="File for one result, folder for several."),
]
Format = Annotated[
    str | None,
    _file("--format", metavar="safetensors|pt", help="Default: the input's."),
]
Dtype = Annotated[
    str,
    _file(
        "--dtype",
        metavar="keep|float32|bfloat16|float16",
        help="Of floating tensors in the output.",
    ),
]
Force = Annotated[bool, _file("--force", "-f", help="Replace existing outputs.")]
NoClobber = Annotated[
    bool, _file("--no-clobber", help="Leave existing outputs as they are and go on.")
]
InPlace = Annotated[
    bool, _file("--in-place", help="Let an output replace the input it comes from.")
]
Card = Annotated[
    bool,
    _file("--card", help="Also write a model card: README.md of a folder, NAME.card.md else."),
]
Device = Annotated[
    str, _machine("--device", metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")
]
Jobs = Annotated[int, _machine("--jobs", "-j", min=0, help="Threads; 0: one for each core.")]
MaxMemory = Annotated[
    str | None,
    _machine("--max-memory", metavar="SIZE", help="For tensors, as 8GB; default: half."),
]
Check = Annotated[
    bool | None,
    _machine(
        "--check/--no-check",
        show_default=False,
        help="Run the model on a random input to see that its function stays; default: where "
        "--model or a config.json tells the model, up to 150 million parameters.",
    ),
]
Seed = Annotated[int, _machine("--seed", min=0, max=2**63 - 1, help="Same seed, same result.")]
Save = Annotated[
    Path | None,
    _file(
        "--save-permutation",
        metavar="FILE",
        help="Also write the permutation; a folder for several models.",
    ),
]
DryRun = Annotated[bool, _shown("--dry-run", "-n", help="Print the plan as JSON; do nothing.")]
Json = Annotated[bool, _shown("--json", help="Results as NDJSON events on stdout.")]
Quiet = Annotated[bool, _shown("--quiet", "-q", help="Nothing on stderr but errors.")]
Verbose = Annotated[int, _shown("--verbose", "-v", count=True, help="More: a table of all groups.")]
NoProgress = Annotated[bool, _shown("--no-progress", help="No progress bar.")]
Null = Annotated[
    bool,
    _file("--null", "-0", help="Paths on stdin end in NUL, as of `find -print0`."),
]

# What commands have in common, by parameter: for `sharing`.
Shared = Mapping[str, tuple[Any, Any]]
READING: Shared = {
    "key": (Key, None),
    "renames": (Renames, None),
    "ignore_classes": (IgnoreClasses, False),
    "dequantize": (Dequantize, False),
}
SELECTING: Shared = {
    "spec": (Spec, None),
    "sizes": (Sizes, None),
    "strict": (Strict, False),
    "only": (Only, None),
    "skip": (Skip, None),
    "pass_through": (PassThrough, None),
    **READING,
}
WRITING: Shared = {
    "only_part": (OnlyPart, None),
    "drop_rest": (DropRest, False),
    "format": (Format, None),
    "dtype": (Dtype, "keep"),
    "force": (Force, False),
    "no_clobber": (NoClobber, False),
    "in_place": (InPlace, False),
}
COMBINING: Shared = {"common": (Common, False)}
CHECKING: Shared = {"check": (Check, None)}
COMPUTING: Shared = {
    "device": (Device, "auto"),
    "jobs": (Jobs, 0),
    "max_memory": (MaxMemory, None),
    "seed": (Seed, 0),
}
SHOWING: Shared = {
    "dry_run": (DryRun, False),
    "json_": (Json, False),
    "quiet": (Quiet, False),
    "no_progress": (NoProgress, False),
}


def sharing(*groups: Shared) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command the options of some groups, to be read from its context."""
    options = {name: option for group in groups for name, option in group.items()}
    return lambda command: extended(command, options)


def start_file(start: str | None) -> Path | None:
    """Return the permutation file that --start names, if it looks like a path."""
    if start is None or not ("." in start or "/" in start):
        return None
    return home_path(start)


def model_paths(models: Sequence[Path] | None) -> list[Path]:
    """Return the MODEL arguments, `~` expanded."""
    return [home_path(model) for model in models or ()]


def home_path(path: str | Path) -> Path:
    """Return a path with `~` expanded, or as it is if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def piped_paths(models: Sequence[Path] | None, null: bool) -> list[Path]:
    """Return the MODEL arguments, or if there are none the paths on stdin, unless a person types.

    stdin holds one path a line, or NDJSON events of another rebasin command, or with `null`
    paths that end in NUL. Raises UsageError if an event says that the other command failed.
    """
    from rebasin_cli.options.piped import parse_paths

    if models or sys.stdin is None or sys.stdin.isatty():
        return model_paths(models)
    return [home_path(path) for path in parse_paths(sys.stdin.buffer.read(), null=null)]

"""Where results go, and whether they may: decided before anything is read or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.checkpoint.endings import file_ending, format_of
from rebasin_cli.checkpoint.layout import Layout, layout_for
from rebasin_cli.checkpoint.parts import Fate
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import Problem, UsageError
from rebasin_cli.files.rest import plan_rest
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorInfo

FORMATS = {"safetensors": ".safetensors", "pt": ".pt"}


KEEP = "keep"  # --dtype that leaves dtypes as they are


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class OutputPlace:
    """Where one file goes, and what happens if there is one: replace it, or leave it (`skip`).

    folder: a folder to create first, or None.
    """

    path: Path
    overwrite: bool
    skip: bool
    folder: Path | None


@dataclass(frozen=True)
class Target:
    """One result: where it goes, in which form, and what becomes of the rest of a file like it.

    card: where its model card goes, if one is wanted: in the folder, or beside the file. text:
    of the card, once it is known.
    """

    place: OutputPlace
    layout: Layout
    fate: Fate = field(default_factory=Fate)
    card: OutputPlace | None = None
    text: str = ""

    @property
    def path(self) -> Path:
        return self.place.path


def plan_format(output: Output, out: Path | None = None) -> str | None:
    """Return the format asked for by --format or the ending of `out`; None: keep the input's."""
    if output.format is not None and output.format not in FORMATS:
        raise UsageError(f"no format is called {output.format!r}", hint="safetensors or pt")
    ended = format_of(out) if out else None
    if output.format and ended and ended != output.format:
        raise UsageError(
            f"--format {output.format} contradicts the ending of {out}",
            hint="leave out --format, or name the output accordingly",
        )
    return output.format or ended


def check_ending(path: Path) -> None:
    """Raise UsageError if a file of the program's own would be refused when it is read again.

    Permutations, statistics and states of learning are safetensors files.
    """
    if format_of(path) == "pt":
        raise UsageError(
            f"{path} would be a safetensors file, and its ending is that of another",
            hint="name it to end in .safetensors",
        )


def output_file(output: Output, name: str) -> Path:
    """Return -o, or if that is a folder or missing the file called `name` in it or here."""
    if output.path is None:
        return Path(name)
    into = output.names_folder and Path(name).suffix
    return output.path / name if into else output.path


def ending(model: Checkpoint, output: Output, *, out: Path | None = None) -> str:
    """Return the file ending of a result made like `model`; empty for a folder."""
    if model.path.is_dir():
        return ""
    format = plan_format(output, out)
    kept = format in (None, format_of(model.path) or "safetensors")
    return file_ending(model.path) if kept else FORMATS[str(format)]


def plan_target(
    path: Path,
    like: Checkpoint,
    selection: Selection,
    output: Output,
    *,
    own: Sequence[Checkpoint],
    others: Sequence[Path] = (),
    create: bool = False,
) -> Target:
    """Return how one result made like `like` will be written; raises as `plan_place` does.

    own: the models the result is made of, which it may replace with --in-place.
    """
    if output.dtype != KEEP and output.dtype not in DTYPES:
        raise UsageError(
            f"no dtype is called {output.dtype!r}", hint=f"{KEEP}, {', '.join(DTYPES)}"
        )
    format = plan_format(output, path)
    layout = layout_for(like.layout, format) if format else like.layout
    layout = replace(layout, ties=common_ties(like, own, selection))
    layout, fate = plan_rest(layout, like, own, selection, output)
    mine = [file for model in own for file in files_of(model)]
    place = plan_place(path, output, own=mine, others=others, create=create)
    return Target(place, layout, fate, plan_card(path, layout, output))


def plan_card(path: Path, layout: Layout, output: Output) -> OutputPlace | None:
    """Return where the model card of a result goes, None if none is wanted.

    That of a folder is its README.md, instead of the one that would be copied: it tells of
    another model. One that is in the place of the result already goes with --force alone.
    """
    if output.card is None:
        return None
    if layout.folder is None:
        return plan_place(path.with_suffix(".card.md"), replace(output, no_clobber=False))
    readme = path / "README.md"
    if readme.exists() and not output.force and not output.no_clobber:
        raise UsageError(
            f"--card would replace {readme}", hint="--force replaces it; or choose another output"
        )
    return OutputPlace(readme, overwrite=True, skip=False, folder=None)


def plan_place(
    path: Path,
    output: Output,
    *,
    own: Sequence[Path] = (),
    others: Sequence[Path] = (),
    create: bool = False,
) -> OutputPlace:
    """Return where one file goes.

    own: files it may replace with --in-place; others: inputs it may never replace.
    create: its folder may be made. Raises UsageError if that is not allowed, if the place
    exists without --force or --no-clobber, or if there can be no file.
    """
    if _same(path, others) or (_same(path, own) and not output.in_place):
        in_place = "" if _same(path, others) else ", or give --in-place to replace the input"
        raise UsageError(
            f"the output {path} is one of the inputs", hint=f"choose another{in_place}"
        )
    if _same(path, own):
        return OutputPlace(path, overwrite=True, skip=False, folder=None)
    folder = _folder_to_make(path, create=create)
    if folder or not path.exists():
        return OutputPlace(path, overwrite=output.force, skip=False, folder=folder)
    if not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is not a regular file", hint="choose another output")
    if output.force:
        return OutputPlace(path, overwrite=True, skip=False, folder=None)
    if output.no_clobber:
        return OutputPlace(path, overwrite=False, skip=True, folder=None)
    raise UsageError(
        f"{path} exists", hint="--force replaces it, --no-clobber keeps it and goes on"
    )


def files_of(model: Checkpoint) -> list[Path]:
    """Return everything that is part of a model on disk."""
    return [model.path, *model.files]


def _folder_to_make(path: Path, *, create: bool) -> Path | None:
    """Return the folder that has to be made for a path, None if it is there."""
    folder = path.parent
    if folder.is_dir():
        return None
    if folder.exists():
        raise UsageError(f"{folder} is not a folder", hint="choose another output")
    if not (create and folder.parent.is_dir()):
        raise UsageError(f"the folder {folder} does not exist", hint="create it first")
    return folder


def _same(path: Path, files: Sequence[Path]) -> bool:
    return path.exists() and any(file.exists() and path.samefile(file) for file in files)


def check_distinct(paths: Sequence[Path]) -> None:
    """Raise UsageError if two results would go to the same place."""
    seen = Counter(path.absolute() for path in paths)
    hint = "give each result a name of its own with -o, or rename the inputs"
    problems = [
        Problem(f"{count} results would go to {path}", hint=hint)
        for path, count in seen.items()
        if count > 1
    ]
    if problems:
        raise UsageError(*problems)


def common_ties(
    like: Checkpoint, models: Sequence[Checkpoint], selection: Selection
) -> dict[str, str]:
    """Return the ties of a model that all models have: two tensors of one are two in the result.

    A model without the second name has nothing that could differ from the first. Where
    --only and --skip leave in one of the two names, they part.
    """
    first: dict[tuple[str | None, ...], str] = {}
    ties = {}
    for name in like.names():
        memories = [_memory(name, like, model) for model in models]
        place = (*memories, str(selection.selects(name)))
        original = first.setdefault(place, name)
        if original != name:
            ties[name] = original
    return ties


def _memory(name: str, like: Checkpoint, model: Checkpoint) -> str:
    """Return the name that stands for the memory of a tensor in a model."""
    names = model.ties if name in model.names() else like.ties
    return names.get(name, name)


def output_infos(
    model: Checkpoint, target: Layout, selection: Selection, output: Output
) -> tuple[TensorInfo, ...]:
    """Return names, shapes and dtypes of a result made like `model`.

    --dtype changes real floating tensors only. A tensor tied to another is left out where the
    format has no ties.
    """
    names = [n for n in model.names() if target.format == "pt" or n not in target.ties]
    return tuple(output_info(model.info(name), selection, output) for name in names)


def output_info(info: TensorInfo, selection: Selection, output: Output) -> TensorInfo:
    """Return what a tensor is in the output."""
    real = info.dtype.is_floating_point
    if output.dtype == KEEP or not real or not selection.selects(info.name):
        return info
    return replace(info, dtype=DTYPES[output.dtype])


def describe_target(target: Target) -> dict[str, Any]:
    """Return what a plan says of one output."""
    action = "skip" if target.place.skip else "replace" if target.path.exists() else "write"
    return {"path": str(target.path), "format": target.layout.format, "action": action}

"""Where one file goes, and whether it may: decided before anything is read or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path

from rebasin_cli.checkpoint.failures import refuse_loop
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.errors import Problem, UsageError
from rebasin_cli.options.output import Output


@dataclass(frozen=True)
class OutputPlace:
    """Where one file goes, and what happens if there is one: replace it, or leave it (`skip`).

    folder: a folder to create first, or None.
    """

    path: Path
    overwrite: bool
    skip: bool
    folder: Path | None

    @property
    def again(self) -> OutputPlace:
        """This place where it may be written twice, the same over the first, as nodes may die."""
        return replace(self, overwrite=True)


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
    if isinstance(path, RemotePath) and path.only_read:
        raise UsageError(f"{path} cannot be written to", hint="say where with -o")
    refuse_loop(path)
    if _is_one_of(path, others) or (_is_one_of(path, own) and not output.in_place):
        in_place = "" if _is_one_of(path, others) else ", or give --in-place to replace the input"
        raise UsageError(
            f"the output {path} is one of the inputs", hint=f"choose another{in_place}"
        )
    if _is_one_of(path, own):
        return _place_of_replacement(path)
    folder = _folder_to_make(path, create=create)
    if folder or not path.exists():
        return OutputPlace(path, overwrite=output.force, skip=False, folder=folder)
    if not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is not a regular file", hint="choose another output")
    if output.force:
        return _place_of_replacement(path)
    if output.no_clobber:
        return OutputPlace(path, overwrite=False, skip=True, folder=None)
    raise UsageError(
        f"{path} exists", hint="--force replaces it, --no-clobber keeps it and goes on"
    )


def _place_of_replacement(path: Path) -> OutputPlace:
    if isinstance(path, RemotePath) and path.is_dir():
        raise UsageError(
            f"{path} is a folder of a store, which cannot be replaced in one step",
            hint="choose another output",
        )
    return OutputPlace(path, overwrite=True, skip=False, folder=None)


def files_of(model: Checkpoint) -> list[Path]:
    """Return everything that is part of a model on disk."""
    return [model.path, *model.files]


def real_path(path: Path) -> Path:
    """Return where links lead: `Path.resolve` of Python 3.12 ends as a bug for one that turns."""
    return Path(realpath(path))


def _folder_to_make(path: Path, *, create: bool) -> Path | None:
    """Return the folder that has to be made for a path, None if it is there."""
    folder = path.parent
    if isinstance(path, RemotePath) or folder.is_dir():
        return None  # a store has no folders but in the names of its files
    if folder.exists():
        raise UsageError(f"{folder} is not a folder", hint="choose another output")
    if not (create and folder.parent.is_dir()):
        raise UsageError(f"the folder {folder} does not exist", hint="create it first")
    return folder


def _is_one_of(path: Path, files: Sequence[Path]) -> bool:
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

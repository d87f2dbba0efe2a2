"""Where results go beside their models, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.files.targets import ending, file_ending
from rebasin_cli.options.groups import Options


def output_paths(models: Sequence[Checkpoint], options: Options, *, word: str) -> list[Path]:
    """Return where results go: beside each model as NAME.word.EXT, to -o, or into -o."""
    if options.out is None:
        if options.in_place:
            return [model.path for model in models]
        return [model.path.parent / _name(model, word, options) for model in models]
    if len(models) == 1 and not _into(options, models[0]):
        return [options.out]
    names = distinct([_name(model, word, options) for model in models], models)
    return [options.out / name for name in names]


def distinct(names: Sequence[str], models: Sequence[Checkpoint]) -> Sequence[str]:
    """Return the names, each behind its model's folder where two are the same."""
    if len(set(names)) == len(names):
        return names
    folders = [model.path.absolute().parent.name for model in models]
    return [f"{folder}-{name}" for folder, name in zip(folders, names, strict=True)]


def _into(options: Options, model: Checkpoint) -> bool:
    """Return whether -o means a folder to put the result into; a folder model is its own folder."""
    folder = options.out_folder or bool(options.out and options.out.is_dir())
    return folder and not model.path.is_dir()


def _name(model: Checkpoint, word: str, options: Options) -> str:
    suffix = ending(model, options)
    path = model.path.absolute()
    stem = path.name if not suffix else path.name.removesuffix(file_ending(path))
    return f"{stem}.{word}{suffix}"


def permutation_paths(models: Sequence[Checkpoint], save: Path | None) -> list[Path]:
    """Return where permutations are saved: a file for one model, a folder for several."""
    if save is None:
        return []
    if len(models) == 1 and not save.is_dir():
        return [save]
    names = [f"{model.path.absolute().stem}.permutation.safetensors" for model in models]
    return [save / name for name in distinct(names, models)]

"""Where results go beside their models, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rebasin_cli.checkpoint.endings import (
    INDEX_ENDING,
    file_ending,
    format_of,
    name_without_ending,
)
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.files.targets import FORMATS, Target, check_ending, plan_format, plan_target
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection


def output_paths(models: Sequence[Checkpoint], output: Output, *, word: str) -> list[Path]:
    """Return where results go: beside each model as NAME.word.EXT, to -o, or into -o."""
    if output.path is None:
        if output.in_place:
            return [model.path for model in models]
        return [model.path.parent / _name(model, word, output) for model in models]
    if len(models) == 1 and not _into(output, models[0]):
        return [output.path]
    names = distinct_names([_name(model, word, output) for model in models], models)
    return [output.path / name for name in names]


def own_target(
    model: Checkpoint,
    selection: Selection,
    output: Output,
    *,
    word: str,
    others: Sequence[Path] = (),
) -> Target:
    """Return how what one model becomes is written: beside it as NAME.word.EXT, or to -o."""
    (out,) = output_paths([model], output, word=word)
    folder = output.names_folder
    return plan_target(out, model, selection, output, own=[model], others=others, create=folder)


def distinct_names(names: Sequence[str], models: Sequence[Checkpoint]) -> Sequence[str]:
    """Return the names, each behind its model's folder where two are the same."""
    if len(set(names)) == len(names):
        return names
    folders = [model.path.absolute().parent.name for model in models]
    return [f"{folder}-{name}" for folder, name in zip(folders, names, strict=True)]


def _into(output: Output, model: Checkpoint) -> bool:
    """Return whether -o means a folder to put the result into; a folder is its own."""
    return _is_folder(output) and not (model.path.is_dir() or output.max_shard_size)


def _is_folder(output: Output) -> bool:
    """Return whether -o is a folder, or is to be one."""
    return output.names_folder or bool(output.path and output.path.is_dir())


def _name(model: Checkpoint, word: str, output: Output) -> str:
    suffix = result_ending(model, output)
    path = model.path.absolute()
    stem = path.name if path.is_dir() else name_without_ending(path)
    return f"{stem}.{word}{suffix}"


def permutation_paths(models: Sequence[Checkpoint], save: str | None) -> list[Path]:
    """Return where permutations are saved: a file for one model, a folder for several.

    save: as -o, with a slash at its end a folder. Raises UsageError for the ending of another
    format.
    """
    if save is None:
        return []
    output = Output(out=save)
    if len(models) == 1 and not _is_folder(output):
        check_ending(named_path(save))
        return [named_path(save)]
    names = [f"{model.path.absolute().stem}.permutation.safetensors" for model in models]
    return [named_path(save) / name for name in distinct_names(names, models)]


def output_file(output: Output, stem: str, ending: str) -> Path:
    """Return -o, or what is called `stem` in it if it is a folder for files, or here without it.

    ending: of that name; of a folder it is empty, and -o is the folder itself.
    """
    if output.path is None:
        return Path(f"{stem}{ending}")
    return output.path / f"{stem}{ending}" if ending and _is_folder(output) else output.path


def result_ending(model: Checkpoint, output: Output) -> str:
    """Return the file ending of a result made like `model`; empty for a folder."""
    if model.path.is_dir() or model.path.name.endswith(INDEX_ENDING) or output.max_shard_size:
        return ""
    format = plan_format(output)
    kept = format in (None, format_of(model.path) or "safetensors")
    return file_ending(model.path) if kept else FORMATS[str(format)]

"""Files: checkpoints opened, and written whole or not at all."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from rebasin_cli.api.pairs import PairMatching
from rebasin_cli.api.tensors_in import ComputedCheckpoint, Model, OutputForm, opened
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.files.inputs import reading_of
from rebasin_cli.files.permutation_file import save_permutations
from rebasin_cli.files.places import files_of, plan_place
from rebasin_cli.files.targets import plan_target
from rebasin_cli.files.write import Result, write_model
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection, parse_renames
from rebasin_cli.options.values import home_path


def open(
    path: str | PathLike[str],
    *,
    key: str | None = None,
    rename: str | list[str] = (),  # type: ignore[assignment]  # nothing
    ignore_classes: bool = False,
    dequantize: bool = False,
) -> Checkpoint:
    """Return a checkpoint, its tensors read when they are asked for; close it, or use `with`.

    path: a weight file, a folder or the index of shards. The options are those of the command
    line. Raises CheckpointError for what is damaged, or wants to run code.
    """
    renames = parse_renames([rename] if isinstance(rename, str) else rename)
    selection = Selection(
        key=key, renames=renames, ignore_classes=ignore_classes, dequantize=dequantize
    )
    return open_checkpoint(fspath(path), reading=reading_of(selection, 1))


def save(
    model: Model | PairMatching,
    path: str | PathLike[str],
    *,
    force: bool = False,
    dtype: str = "keep",
    format: str | None = None,
    drop_rest: bool = False,
) -> Written:
    """Write a model, or a matching as a permutation file; whole, or not at all.

    A result that was made from a file is written like that: its dtypes, order, shards, nesting,
    metadata, and where it came from. A state dict is written as the ending of the path says. force:
    replace a file that is there. The options are those of the command line.

    Raises UsageError for a place that may not be written, MachineError if the disk fails.
    """
    output = Output(force=force, dtype=dtype, format=format, drop_rest=drop_rest)
    target = home_path(fspath(path))
    if isinstance(model, PairMatching):
        return _save_matching(model, target, output)
    (source,) = opened([model], Selection())
    form = model.form if isinstance(model, ComputedCheckpoint) else OutputForm(source, dict)
    planned = plan_target(target, form.like, Selection(), output, own=[form.like])
    facts, parts = form.facts(), form.parts
    result = Result(source, form.like, facts, parts)
    return write_model(result, planned, Selection(), output)


def _save_matching(found: PairMatching, path: Path, output: Output) -> Written:
    """Write a permutation file."""
    inputs = [file for model in (found.reference, found.other) for file in files_of(model)]
    place = plan_place(path, output, others=inputs)
    written = save_permutations(
        place,
        found.permutations,
        found.bound,
        (found.reference, found.other),
        found.asked.selection.sizes,
    )
    assert written is not None, "a place that is planned without --no-clobber is written"
    return written

"""Files: checkpoints opened, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

from torch import Tensor, nn

from rebasin_cli.api.keywords import renames_of
from rebasin_cli.api.pairs import PairMatching
from rebasin_cli.api.running import library_verb
from rebasin_cli.api.tensors_in import ComputedCheckpoint, Model, OutputForm, in_memory, open_all
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.errors import UsageError, warn
from rebasin_cli.files.inputs import reading_of
from rebasin_cli.files.places import files_of, plan_place
from rebasin_cli.files.saved.permutation_file import save_permutations
from rebasin_cli.files.targets import plan_format, plan_target
from rebasin_cli.files.write import Result, write_model
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.wording import listing


@library_verb
def open(
    path: str | PathLike[str],
    *,
    key: str | None = None,
    rename: str | Sequence[str] = (),
    ignore_classes: bool = False,
    dequantize: bool = False,
) -> Checkpoint:
    """Return a checkpoint whose tensors are read when they are asked for. Close it, or use `with`.

    path: a weight file, a folder, or the index of shards. key: where in a nested PyTorch file the
    weights are, as `ema.model`. rename: one or several `OLD=NEW`: a regular expression that is
    searched for in the names of tensors, and its replacement. ignore_classes: leave out objects of
    classes that are not read, instead of refusing the file. dequantize: read int8 and fp8 codes
    with scales as the weights that they stand for. Raises CheckpointError for a file that is
    damaged or that would run code.
    """
    selection = Selection(
        key=key, renames=renames_of(rename), ignore_classes=ignore_classes, dequantize=dequantize
    )
    return open_checkpoint(fspath(path), reading=reading_of(selection, 1))


@library_verb
def save(
    model: Model | PairMatching,
    path: str | PathLike[str],
    *,
    force: bool = False,
    in_place: bool = False,
    dtype: str = "keep",
    format: str | None = None,
    drop_rest: bool = False,
) -> Written:
    """Write a model, or the permutations of a matching. The file is there whole, or not at all.

    A result that was made from a file is written in the form of that file: its dtypes, order,
    shards, nesting and metadata, and a note of where it came from. A state dict is written in the
    format that the ending of the path names. Of tensors that share their memory, a safetensors
    file gets the first. Entries that are no tensors are left out, with a RebasinWarning.

    force: replace an existing file. in_place: even if the result was made from it. dtype: of
    floating tensors in the file: `keep`, `float32`, `bfloat16` or `float16`. format: `safetensors`
    or `pt`. drop_rest: of a nested file write only the parts that hold weights.

    Raises UsageError for a path that may not be written, MachineError if the disk fails.
    """
    output = Output(force=force, in_place=in_place, dtype=dtype, format=format, drop_rest=drop_rest)
    target = named_path(fspath(path))
    if isinstance(model, PairMatching):
        return _save_matching(model, target, output)
    if in_memory(model) and plan_format(output, target) is None:
        raise UsageError(
            f"the ending of {target} names no format", hint="end it in .safetensors or .pt"
        )
    _tell_of_rest(model, target)
    if isinstance(model, ComputedCheckpoint):
        source, form = model.computed, model.form
    else:
        (held,) = open_all([model], Selection(), label="the model")
        source, form = held, OutputForm([held], dict, Selection())
    own = form.made_of
    planned = plan_target(target, form.like, form.selection, output, own=own)
    made = Result(source, form.like, form.facts(), form.parts, others=form.others)
    return write_model(made, planned, form.selection, output)


def _tell_of_rest(model: Model, path: Path) -> None:
    """Warn of what is no tensor in a state dict, and is not written."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    held = state.items() if isinstance(state, Mapping) else ()
    left = [str(name) for name, value in held if not (value is None or isinstance(value, Tensor))]
    if left:
        told = f"{path} has tensors alone: left out {listing(left)}"
        warn(told)


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

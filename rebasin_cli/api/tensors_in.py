"""Whatever holds tensors, as a checkpoint, and results in the form that was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeAlias

from torch import Tensor, nn

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.source_checkpoint import (
    SourceCheckpoint,
    held_checkpoint,
    module_checkpoint,
)
from rebasin_cli.files.inputs import agreeing, reading_of
from rebasin_cli.files.part_sources import Parts
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import TensorSource

Model: TypeAlias = "Mapping[str, Tensor] | nn.Module | TensorSource | str | PathLike[str]"


@dataclass(frozen=True)
class OutputForm:
    """What a result needs to be written like the checkpoint that it was made from.

    like: that checkpoint. facts: its provenance, which takes the digests of the inputs. parts:
    what the sets of weights beside it become; None: they stay, and are stale.
    """

    like: Checkpoint
    facts: Callable[[], Mapping[str, str]]
    parts: Parts | None = None


class ComputedCheckpoint(SourceCheckpoint):
    """A checkpoint that is computed, tensor by tensor, as it is read; `save` writes it.

    form: how. Holds the files open that it is computed from.
    """

    def __init__(self, source: TensorSource, form: OutputForm) -> None:
        like = form.like
        super().__init__(source, str(like.path), ties=like.ties, config=like.config)
        self.form = form


def opened(models: Sequence[Model], selection: Selection) -> list[Checkpoint]:
    """Return models as checkpoints, their names brought to those of the first.

    State dicts and modules are shared, not copied. Raises TypeError for what holds no tensors, and
    what opening files does.
    """
    found = [_checkpoint(model, number, selection) for number, model in enumerate(models, 1)]
    return agreeing(found, selection)


def _checkpoint(model: Model, number: int, selection: Selection) -> Checkpoint:
    reading, label = reading_of(selection, number), f"model {number}"
    if isinstance(model, Checkpoint):
        return model.read_as(reading) if reading.renames else model
    if isinstance(model, nn.Module):
        return module_checkpoint(model, label).read_as(reading)
    if isinstance(model, Mapping):
        return held_checkpoint(model, label).read_as(reading)
    if isinstance(model, str | PathLike):
        return open_checkpoint(fspath(model), reading=reading)
    if hasattr(model, "names") and hasattr(model, "load"):
        return SourceCheckpoint(model, label).read_as(reading)
    raise TypeError(
        f"{label} is a {type(model).__name__}: expected a state dict, a module, a TensorSource, "
        "a Checkpoint or a path"
    )


def in_memory(models: Sequence[Model]) -> bool:
    """Return whether results are state dicts: if every model is a state dict or a module."""
    return all(isinstance(model, Mapping | nn.Module) for model in models)


def state_dict_like(given: Model, source: TensorSource, seen: Checkpoint) -> dict[str, Any]:
    """Return tensors of a source as the state dict of a model, which was given as one.

    Order, devices, ties and what is no tensor are those of the model; no tensor of it is shared.
    seen: the model as a checkpoint, whose names the source has.
    """
    state = given.state_dict() if isinstance(given, nn.Module) else given
    assert isinstance(state, Mapping), "asked for models in memory alone"
    names = {seen.stored_name(name): name for name in seen.names()}
    made: dict[str, Tensor] = {}
    result = {}
    for stored, value in state.items():
        if stored not in names:
            result[stored] = value
            continue
        name = seen.ties.get(names[stored], names[stored])
        if name not in made:
            made[name] = _apart(source.load(name), value)
        result[stored] = made[name]
    return result


def _apart(tensor: Tensor, original: Tensor) -> Tensor:
    """Return a tensor on the device of another, and not in its memory."""
    moved = tensor.to(original.device)
    shared = moved.data_ptr() == original.data_ptr()
    return moved.clone() if shared else moved

"""Models that a caller gives, opened as checkpoints, and results in the form that they came in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from typing import Any, NoReturn, TypeAlias, TypeGuard

from torch import Tensor, nn

from rebasin_cli.api.running import library_verb
from rebasin_cli.checkpoint.opened_files import Reading
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.source_checkpoint import (
    SourceCheckpoint,
    held_checkpoint,
    module_checkpoint,
)
from rebasin_cli.errors import CheckpointError, NotFiniteError
from rebasin_cli.files.inputs import agree_on_tensors, reading_of
from rebasin_cli.files.part_sources import Parts
from rebasin_cli.files.targets import common_ties
from rebasin_cli.merging.whole_numbers import converted_exactly
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors import Derived, TensorInfo, TensorSource, dtype_name
from rebasin_cli.tensors.numbers import all_finite

ModelInMemory: TypeAlias = "Mapping[str, Tensor] | nn.Module"
Model: TypeAlias = "ModelInMemory | TensorSource | str | PathLike[str]"


@dataclass(frozen=True)
class OutputForm:
    """What is needed to write a result in the form of the first checkpoint it was made from.

    made_of: all checkpoints it was made from. facts: returns its provenance; late, since that reads
    whole files for their digests. selection: which tensors were worked on. parts: what becomes of
    other sets of weights in the file; None: they stay as they are, and are stale. others: tensors
    of the result whose shape is not that of the first checkpoint's.
    """

    made_of: Sequence[Checkpoint]
    facts: Callable[[], Mapping[str, str]]
    selection: Selection
    parts: Parts | None = None
    others: Mapping[str, TensorInfo] = field(default_factory=dict)

    @property
    def like(self) -> Checkpoint:
        """The checkpoint whose form it is."""
        return self.made_of[0]

    @property
    def ties(self) -> dict[str, str]:
        """Names of tensors that are others in all of the checkpoints: alias -> the first name."""
        return common_ties(self.like, self.made_of, self.selection)


class ComputedCheckpoint(SourceCheckpoint):
    """A checkpoint that is computed, tensor by tensor, as it is read; `save` writes it.

    computed: the tensors as they are computed, means not rounded yet. form: how to write them.
    Holds the files open that it is computed from.
    """

    def __init__(self, source: TensorSource, form: OutputForm) -> None:
        like = form.like
        label = str(like.path)
        super().__init__(_InDtypes(source, like), label, ties=form.ties, config=like.config)
        self.computed, self.form = source, form

    @library_verb
    def load(self, name: str) -> Tensor:
        return super().load(name)

    def __reduce__(self) -> NoReturn:
        raise TypeError("what is computed as it is read cannot be copied: rb.save writes it")


def open_all(
    models: Sequence[Model], selection: Selection, *, first: int = 1, label: str = "model"
) -> list[Checkpoint]:
    """Return models as checkpoints, under the tensor names of the first.

    first: the number of the first model, which a rename `N:OLD=NEW` counts by. label: what errors
    call a model that is no file, followed by its number. State dicts and modules are not copied:
    memory is shared. Raises TypeError for objects that hold no tensors, and what opening files
    raises.
    """
    found = [_checkpoint(m, k, selection, label) for k, m in enumerate(models, first)]
    return agree_on_tensors(found, selection)


def open_owned(model: Model) -> Checkpoint:
    """Return a model, or what belongs to one, as a checkpoint; folders of adapters too."""
    if isinstance(model, str | PathLike):
        return open_checkpoint(fspath(model), reading=Reading(adapters=True))
    return _checkpoint(model, 1, Selection(), "the model")


def open_beside(reference: Checkpoint, model: Model, selection: Selection) -> Checkpoint:
    """Return a model under the names of a reference, read as the second one of a matching."""
    return agree_on_tensors(
        [reference, _checkpoint(model, 2, selection, "the model")], Selection()
    )[1]


def _checkpoint(model: Model, number: int, selection: Selection, name: str) -> Checkpoint:
    reading = reading_of(selection, number)
    label = f"{name} {number}" if name == "model" else name
    if isinstance(model, Checkpoint):
        return model.read_as(reading) if reading.renames else model
    if isinstance(model, nn.Module):
        return module_checkpoint(model, label).read_as(reading)
    if isinstance(model, Mapping):
        return held_checkpoint(model, label).read_as(reading)
    if isinstance(model, str | PathLike):
        return open_checkpoint(fspath(model), reading=reading)
    if all(callable(getattr(model, method, None)) for method in ("names", "info", "load")):
        return SourceCheckpoint(model, label).read_as(reading)
    raise TypeError(
        f"{label} is of type {type(model).__name__}: expected a state dict, a module, a "
        "TensorSource, a Checkpoint or a path"
    )


def in_memory(model: Model) -> TypeGuard[ModelInMemory]:
    """Return whether a model is a state dict or a module, whose results are state dicts."""
    return isinstance(model, Mapping | nn.Module)


def in_given_form(
    given: Sequence[Model], source: TensorSource, form: OutputForm
) -> dict[str, Tensor] | ComputedCheckpoint:
    """Return the tensors of a source in the form of the models that it was made from.

    given: these models. If all are state dicts or modules, the result is a state dict. If any is
    something else, such as a path, it is a checkpoint that is computed as it is read.
    """
    held = [model for model in given if in_memory(model)]
    if len(held) < len(given):
        return ComputedCheckpoint(source, form)
    return state_dict_like([_state(model) for model in held], source, form)


def state_dict_like(
    given: Sequence[Mapping[str, Any]], source: TensorSource, form: OutputForm
) -> dict[str, Tensor]:
    """Return the tensors of a source as a state dict like the first of those it was made from.

    Order, dtypes, devices, the version numbers of modules (`_metadata`) and entries that are no
    tensors are those of the first. The result shares no memory with any of them; inside it, tensors
    share memory that do so in all of them.
    """
    state, like, ties = given[0], form.like, form.ties
    names = {like.stored_name(name): name for name in like.names()}
    taken = {_memory(t) for one in given for t in one.values() if isinstance(t, Tensor)}
    rounded = _InDtypes(source, like)
    made: dict[str, Tensor] = {}
    found: OrderedDict[str, Any] = OrderedDict()
    for stored, value in state.items():
        if stored not in names:
            found[stored] = copy.deepcopy(value)
            continue
        name = ties.get(names[stored], names[stored])
        if name not in made:
            moved = rounded.load(name).to(value.device)
            made[name] = moved.clone() if _memory(moved) in taken else moved
        found[stored] = made[name]
    if hasattr(state, "_metadata"):
        vars(found)["_metadata"] = copy.deepcopy(state._metadata)
    return found


def _state(model: ModelInMemory) -> Mapping[str, Any]:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _InDtypes(Derived):
    """Tensors in the dtypes of a checkpoint: means are computed in wider ones."""

    def __init__(self, source: TensorSource, like: Checkpoint) -> None:
        super().__init__(source)
        self._like, self._label = like, str(like.path)

    def info(self, name: str) -> TensorInfo:
        return replace(super().info(name), dtype=self._like.info(name).dtype)

    def load(self, name: str) -> Tensor:
        tensor, info = super().load(name), self.info(name)
        if tensor.dtype == info.dtype:
            return tensor
        real = tensor.is_floating_point() and info.dtype.is_floating_point
        return self._rounded(tensor, info) if real else self._exactly(tensor, info)

    def _rounded(self, tensor: Tensor, info: TensorInfo) -> Tensor:
        found = tensor.to(info.dtype)
        if not all_finite(found) and all_finite(tensor):
            raise NotFiniteError(
                f"tensor {info.name!r} does not fit {dtype_name(info.dtype)}", where=self._label
            )
        return found

    def _exactly(self, tensor: Tensor, info: TensorInfo) -> Tensor:
        if tensor.is_complex() and info.dtype.is_complex:
            return tensor.to(info.dtype)
        found = converted_exactly(tensor, info.dtype)
        if found is None:
            raise CheckpointError(
                f"tensor {info.name!r} is {dtype_name(tensor.dtype)} in one model, and "
                f"{dtype_name(info.dtype)}, which cannot hold its numbers, in another",
                where=self._label,
            )
        return found

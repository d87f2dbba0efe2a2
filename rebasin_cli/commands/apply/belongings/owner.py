"""The model that an adapter or a state of training belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.adapters.factor_names import entry_of
from rebasin_cli.adapters.weight_names import find_weights_of
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.errors import PermutationError
from rebasin_cli.files.inputs import open_models
from rebasin_cli.files.saved.permutation_file import CONFIG, object_in
from rebasin_cli.files.saved.stored_model import stored_model
from rebasin_cli.options.selection import Selection


@dataclass(frozen=True)
class OwnerModel:
    """The model that something belongs to. ordered: its tensors stand in the order of its modules.

    named: it is there, with its values.
    """

    model: Checkpoint
    ordered: bool
    named: bool


def owner_of(source: Path, base: Path | None, selection: Selection) -> OwnerModel:
    """Return the model that a permutation file was found for: --base, or what the file says.

    Raises PermutationError if neither tells.
    """
    if base is not None:
        reading = Selection(
            ignore_classes=selection.ignore_classes, dequantize=selection.dequantize
        )
        (model,) = open_models([base], reading)
        return OwnerModel(model, model.layout.format == "pt", named=True)
    with open_checkpoint(source) as file:
        stored = stored_model(file, object_in(file, source, CONFIG))
    if stored is None:
        raise PermutationError(
            "it does not say which tensors its model has",
            where=str(source),
            hint="name the model with --base",
        )
    return OwnerModel(stored.model, stored.ordered, named=False)


def is_copy(part: Checkpoint, source: Path) -> bool:
    """Return whether a file has some of the tensors of a permutation's model, and no others.

    What has all of them is a model, and what it lacks to be that one is to be told as such.
    """
    with open_checkpoint(source) as file:
        stored = stored_model(file, {})
    if stored is None:
        return False
    if {*stored.model.names()} <= {*part.names()}:
        return False
    entries = [entry_of(name) for name in part.names()]
    return not find_weights_of(entries, stored.model.names()).lacking

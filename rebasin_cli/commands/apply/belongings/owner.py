"""The model that an adapter or a state of training belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rebasin_cli.adapters.factor_names import entry_of
from rebasin_cli.adapters.weight_names import find_weights_of
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.errors import PermutationError
from rebasin_cli.files.inputs import open_by_itself
from rebasin_cli.files.saved.permutation_file import CONFIG, object_in
from rebasin_cli.files.saved.stored_model import stored_model
from rebasin_cli.models.module_weights import held_ties
from rebasin_cli.models.subject import without_memory
from rebasin_cli.network.network import plan_network
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing


@dataclass(frozen=True)
class OwnerModel:
    """The model that something belongs to. ordered: its tensors stand in the order of its modules.

    named: it is there, with its values. parameters: all that its module has, in their order; None:
    no module was named.
    """

    model: Checkpoint
    ordered: bool
    named: bool
    parameters: tuple[str, ...] | None = None


def owner_of(source: Path, base: Path | None, selection: Selection) -> OwnerModel:
    """Return the model that a permutation file was found for: --base, or what the file says.

    Raises PermutationError if neither tells.
    """
    if base is not None:
        model = open_by_itself(base, selection)
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


def in_module_order(owner: OwnerModel, tracing: Tracing) -> OwnerModel:
    """Return the model with the order of the parameters of the module that the options name.

    Raises PermutationError for a parameter that is not one tensor of the checkpoint, as a fused one
    that is stored in parts: its moments are in one piece.
    """
    if tracing.target is None:
        return owner
    network = plan_network(owner.model, Selection(), tracing)
    module = without_memory(network.subject)
    module = network.subject.build() if module is None else module
    places = {(window.source, window.shape): name for name, window in network.windows.items()}
    ties = held_ties(module)
    first = {(ties.get(source, source), shape): name for (source, shape), name in places.items()}
    held = {(name, tuple(p.shape)): name for name, p in module.named_parameters()}
    lacking = [name for key, name in held.items() if key not in first]
    if lacking:
        raise PermutationError(
            f"{lacking[0]!r} of {network.subject.name} is not one tensor of {owner.model.path}",
            hint="its moments cannot follow by number; name a .pt of the module with --base",
        )
    return replace(owner, ordered=True, parameters=tuple(first[key] for key in held))


def is_copy(part: Checkpoint, source: Path) -> bool:
    """Return whether a file has some of the tensors of a permutation's model, and no others.

    What has all of them is a model, and what it lacks to be that one is to be told as such.
    """
    with open_checkpoint(source) as file:
        stored = stored_model(file, {})
    return stored is not None and is_part(part, stored.model)


def is_part(part: Checkpoint, model: Checkpoint) -> bool:
    """Return whether one has some of the tensors of a model, not all of them, and no others."""
    if {*model.names()} <= {*part.names()}:
        return False
    entries = [entry_of(name) for name in part.names()]
    return not find_weights_of(entries, model.names()).lacking

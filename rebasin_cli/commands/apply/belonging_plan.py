"""The plan of `rebasin apply` for what belongs to a model: adapters, copies, states of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.adapters.adapter import Adapter, bind_adapter
from rebasin_cli.adapters.factor_names import is_adapter
from rebasin_cli.adapters.unknown_tensors import refuse_or_keep
from rebasin_cli.checkpoint.endings import format_of
from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.checkpoint.opened_files import Reading
from rebasin_cli.checkpoint.parts import KeyPath, dotted_path
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.torch_format.container import find_state_dict
from rebasin_cli.checkpoint.torch_format.unpickle import load_container
from rebasin_cli.commands.apply.belongings.adapter_maps import unmappable, with_followers
from rebasin_cli.commands.apply.belongings.owner import OwnerModel
from rebasin_cli.commands.apply.belongings.training import Training, bind_training
from rebasin_cli.commands.apply.belongings.training_states import training_states
from rebasin_cli.commands.apply.movement import FactorRotation, Movement, Reordering
from rebasin_cli.errors import CheckpointError, PermutationError, Problem
from rebasin_cli.files.saved.permutation_file import read_permutations
from rebasin_cli.folding.map_file import is_map_file, read_maps
from rebasin_cli.options.selection import Selection
from rebasin_cli.permutation import inverse as inverted


@dataclass(frozen=True)
class Belonging:
    """What belongs to a model, and is none.

    kind: what it is called. tensors: how many it has, moved: how many of them move. kept: names of
    what is left in the old order. foreign: of other networks. lost: of what the new order does not
    follow from the old one, and is left out.
    """

    kind: str
    tensors: int
    moved: int
    kept: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def plan_adapter(
    adapter: Checkpoint, source: Path, owner: OwnerModel, *, inverse: bool, keep_unknown: bool
) -> tuple[Movement, Belonging]:
    """Return how an adapter, or a copy of some tensors, is moved."""
    if is_map_file(source):
        return _plan_rotated_adapter(
            adapter, source, owner, inverse=inverse, keep_unknown=keep_unknown
        )
    saved = read_permutations(source, owner.model)
    permutations = inverted(saved.permutations) if inverse else saved.permutations
    movement = Reordering(saved.bound, permutations)
    return reordered_adapter(adapter, movement, owner, keep_unknown=keep_unknown)


def reordered_adapter(
    adapter: Checkpoint, movement: Reordering, owner: OwnerModel, *, keep_unknown: bool
) -> tuple[Movement, Belonging]:
    """Return how an adapter follows the permutations of its model."""
    found = bind_adapter(adapter, owner.model, movement.bound, keep_unknown=keep_unknown)
    moved = {name for name, p in movement.permutations.items() if p.moved}
    own = replace(movement, bound=replace(movement.bound, tensors=found.tensors))
    return own, _belonging_of(adapter, found, moved)


def _plan_rotated_adapter(
    adapter: Checkpoint, source: Path, owner: OwnerModel, *, inverse: bool, keep_unknown: bool
) -> tuple[Movement, Belonging]:
    if not owner.named:
        raise PermutationError(
            f"its maps fold the norms of the model that {adapter.path} belongs to",
            where=str(source),
            hint="name that model with --base",
        )
    saved = read_maps(source, owner.model)
    maps = saved.maps.inverse() if inverse else saved.maps
    found = bind_adapter(adapter, saved.model, saved.folding.bound, keep_unknown=keep_unknown)
    reasons = list(unmappable(saved.folding, found.followers, saved.model))
    if reasons:
        where, hint = str(adapter.path), "merge the adapter into the model, and apply that"
        problems = [Problem(why, where=where, hint=hint) for why in reasons]
        raise PermutationError(*cap_problems(problems))
    folding = with_followers(saved.folding, found.followers, found.tensors)
    movement = FactorRotation(
        folding=folding,
        maps=maps,
        heads=saved.model.apart,
        base=saved.model,
        factors=found.tensors,
    )
    moved = {*maps.linear, *(name for name, p in maps.permutations.items() if p.moved)}
    return movement, _belonging_of(adapter, found, moved)


def _belonging_of(adapter: Checkpoint, found: Adapter, moved: set[str]) -> Belonging:
    names = {name for tensor in found.tensors if tensor.groups & moved for name in tensor.members}
    kind = "adapter" if is_adapter(adapter.names()) else "copy of tensors"
    return Belonging(kind, len(adapter.names()), len(names), found.kept, found.foreign)


def open_states(path: Path, selection: Selection) -> Checkpoint | None:
    """Return a PyTorch file that holds states of training and no weights, None if it is no such."""
    ignoring = selection.ignore_classes
    if not path.is_file() or format_of(path) != "pt" or selection.part is not None:
        return None
    try:
        value = load_container(path, ignoring=ignoring).value
    except CheckpointError:
        return None  # whoever opens it as a model tells why
    try:
        find_state_dict(value, key=None, path=path)
    except CheckpointError:
        reading = Reading(ignoring=ignoring, weightless=True)
        return open_checkpoint(path, reading=reading) if holds_training(value) else None
    return None


def plan_training(
    file: Checkpoint,
    parts: Sequence[KeyPath],
    movement: Movement,
    owner: OwnerModel,
    *,
    keep_unknown: bool,
) -> Training:
    """Return what follows the weights of a model in some parts of a file of its training.

    Raises PermutationError for what does not, unless it is kept.
    """
    container = load_container(file.files[0], ignoring=file.layout.ignoring).value
    found = training_in(container, parts, movement, owner)
    refuse_or_keep(found.wrong, file.path, keep_unknown=keep_unknown)
    return found


def training_in(
    container: Any, parts: Sequence[KeyPath], movement: Movement, owner: OwnerModel
) -> Training:
    """Return what follows a model's weights in some parts of a container, and what is wrong."""
    if isinstance(movement, Reordering):
        return bind_training(container, parts, owner, movement)
    what = "it holds numbers of single units, which do not follow a rotation"
    names = [dotted_path(part) or "state" for part in parts]
    return Training(wrong={name: Problem(f"{name!r}: {what}") for name in names})


def holds_training(container: Any) -> bool:
    """Return whether a container holds states of training, be it one without moments yet."""
    return any(True for _ in training_states(container, ()))

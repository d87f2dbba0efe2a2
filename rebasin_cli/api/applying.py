"""What was found for one model, applied to others and to what belongs to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial, reduce
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from rebasin_cli.activations.statistics_file import KEY as STATISTICS
from rebasin_cli.adapters.factor_names import is_adapter
from rebasin_cli.adapters.unknown_tensors import refuse_or_keep
from rebasin_cli.api.pairs import PairMatching
from rebasin_cli.api.running import library_verb
from rebasin_cli.api.tensors_in import (
    Model,
    ModelInMemory,
    OutputForm,
    in_given_form,
    open_all,
    open_owned,
)
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.commands.apply.belonging_plan import (
    holds_training,
    plan_adapter,
    reordered_adapter,
    training_in,
)
from rebasin_cli.commands.apply.belongings.owner import OwnerModel, is_copy, is_part, owner_of
from rebasin_cli.commands.apply.belongings.training import Training
from rebasin_cli.commands.apply.movement import Movement, Reordering
from rebasin_cli.commands.apply.saved_movement import check_saved, read_movement
from rebasin_cli.errors import PermutationError, UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.saved.permutation_file import Saved
from rebasin_cli.options.selection import Selection
from rebasin_cli.permutation import inverse as inverse_of

if TYPE_CHECKING:
    from rebasin_cli.tensors import TensorSource

_PLAIN = Selection()


@overload
def apply(
    permutation: PairMatching | str | PathLike[str],
    model: ModelInMemory,
    *,
    inverse: bool = False,
    base: Model | None = None,
    keep_unknown: bool = False,
) -> dict[str, Tensor]: ...


@overload
def apply(
    permutation: PairMatching | str | PathLike[str],
    model: TensorSource | str | PathLike[str],
    *,
    inverse: bool = False,
    base: Model | None = None,
    keep_unknown: bool = False,
) -> Checkpoint: ...


@library_verb
def apply(
    permutation: PairMatching | str | PathLike[str],
    model: Model | Mapping[str, Any],
    *,
    inverse: bool = False,
    base: Model | None = None,
    keep_unknown: bool = False,
) -> dict[str, Any] | Checkpoint:
    """Return a model, or something that belongs to one, with its units permuted: `rebasin apply`.

    permutation: what `match` returned; or a file of permutations, or of the maps that `rebasin
    align --symmetry orthogonal` saved (these also fold the norms). inverse: undo it.

    model: a model. Or an adapter (LoRA and similar ones, recognised by the names of its tensors),
    as a file or a state dict. Or the state dict of an optimizer: its moments are permuted like
    their parameters, everything else is copied.

    base: the model that an adapter or an optimizer belongs to, if the permutation does not say.
    An optimizer numbers its parameters: those of a module, else the tensors of a state dict or a
    .pt file, in their order. keep_unknown: leave tensors that follow no weight as they are, with a
    warning; otherwise they are an error.

    The result has the form that `PairMatching.apply` describes. Raises PermutationError for a file
    that holds no permutation or does not fit the model, and for tensors that follow no weight.
    """
    if isinstance(model, Mapping) and _is_training(model):
        return _applied_training(
            permutation, model, base, inverse=inverse, keep_unknown=keep_unknown
        )
    seen = open_owned(model)
    if not isinstance(permutation, PairMatching):
        path = _permutation_path(permutation)
        return _applied_file(path, model, seen, base, inverse=inverse, keep_unknown=keep_unknown)
    under = _owner_under(permutation, seen, base)
    if under is None:
        _refuse_base(seen, base)
        return permutation.apply(model, inverse=inverse)
    order = _reordering_of(permutation, inverse=inverse)
    moved, _ = reordered_adapter(seen, order, under, keep_unknown=keep_unknown)
    return _moved_in_form(model, seen, seen, moved, inverse=inverse)


def _applied_file(
    path: Path,
    model: Model,
    seen: Checkpoint,
    base: Model | None,
    *,
    inverse: bool = False,
    keep_unknown: bool = False,
) -> dict[str, Tensor] | Checkpoint:
    """Return a model, or an adapter, with a file of permutations or maps applied. seen: opened."""
    if STATISTICS in seen.metadata:
        hint = "rebasin apply PERM FILE --base MODEL carries them"
        raise UsageError(f"{seen.path} holds what units do on data", hint=hint)
    found = None if is_adapter(seen.names()) else _of_model(path, seen, base, inverse=inverse)
    if found is None:
        owner = _owner(path, base)
        movement, _ = plan_adapter(seen, path, owner, inverse=inverse, keep_unknown=keep_unknown)
        return _moved_in_form(model, seen, seen, movement, inverse=inverse)
    _refuse_base(seen, base)
    held, movement, saved = found
    refuse_torn_codes([seen], moves_together(saved.bound, saved.permutations.keys()))
    check_saved(saved, path, seen, _PLAIN)
    return _moved_in_form(model, seen, held, movement, inverse=inverse)


def _permutation_path(permutation: object) -> Path:
    """Return the file of a permutation. Raises TypeError for what is none."""
    if not isinstance(permutation, str | PathLike):
        kind = type(permutation).__name__
        raise TypeError(f"permutation: a {kind} is none: expected one of rb.match, or a file")
    return named_path(fspath(permutation))


def _of_model(
    path: Path, seen: Checkpoint, base: Model | None, *, inverse: bool
) -> tuple[Checkpoint, Movement, Saved] | None:
    """Return what a file does to a model; None of what is no model, but some tensors of one."""
    try:
        return read_movement(path, seen, inverse=inverse)
    except PermutationError:
        if base is None and not is_copy(seen, path):
            raise
        return None


def _owner_under(matching: PairMatching, seen: Checkpoint, base: Model | None) -> OwnerModel | None:
    """Return the model that something belongs to; None of what is a model itself."""
    owner = _named_owner(matching.other if base is None else base)
    return owner if is_adapter(seen.names()) or is_part(seen, owner.model) else None


def _reordering_of(matching: PairMatching, *, inverse: bool) -> Reordering:
    orders = matching.permutations
    return Reordering(matching.bound, inverse_of(orders) if inverse else orders)


def _refuse_base(seen: Checkpoint, base: Model | None) -> None:
    if base is not None:
        raise UsageError(f"{seen.path} is a model itself", hint="leave out base")


def _moved_in_form(
    given: Model, seen: Checkpoint, held: Checkpoint, movement: Movement, *, inverse: bool
) -> dict[str, Tensor] | Checkpoint:
    """Return a checkpoint that is moved, in the form that it was given in. held: what moves."""

    def part(key: str) -> TensorSource:
        return movement.apply(part_of(held, key, movement.tensors))

    facts = partial(
        provenance, "apply", [seen], basin=None, inverse=inverse, **dict(movement.facts)
    )
    return in_given_form([given], movement.apply(held), OutputForm([held], facts, _PLAIN, part))


def _owner(source: Path, base: Model | None) -> OwnerModel:
    """Return the model that something belongs to."""
    if base is None or isinstance(base, str | PathLike):
        named = None if base is None else named_path(fspath(base))
        return owner_of(source, named, _PLAIN)
    return _named_owner(base)


def _named_owner(base: Model) -> OwnerModel:
    (model,) = open_all([base], _PLAIN, label="the base")
    parameters = [n for n, _ in base.named_parameters()] if isinstance(base, nn.Module) else None
    return OwnerModel(
        model,
        ordered=not model.opened or model.layout.format == "pt",
        named=True,
        parameters=None if parameters is None else tuple(parameters),
    )


def _is_training(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping holds states of training, and no tensors of a model."""
    return not any(isinstance(t, Tensor) for t in value.values()) and holds_training(value)


def _applied_training(
    permutation: PairMatching | str | PathLike[str],
    state: Mapping[str, Any],
    base: Model | None,
    *,
    inverse: bool,
    keep_unknown: bool,
) -> dict[str, Any]:
    """Return a state of training whose tensors follow their weights."""
    if isinstance(permutation, PairMatching):
        owner = _named_owner(permutation.other if base is None else base)
        movement: Movement = _reordering_of(permutation, inverse=inverse)
    else:
        path = _permutation_path(permutation)
        owner = _owner(path, base)
        _, movement, _ = read_movement(path, owner.model, inverse=inverse)
    found = training_in(state, [()], movement, owner)
    refuse_or_keep(found.wrong, Path("the state of training"), keep_unknown=keep_unknown)
    return _with_moments(state, found)


def _with_moments(state: Mapping[str, Any], found: Training) -> dict[str, Any]:
    """Return a copy of a state with other tensors at some of its places."""
    made: dict[str, Any] = copy.deepcopy(dict(state))
    for job in found.jobs():
        holder: Any = reduce(lambda value, key: value[key], job.path, made)
        for info in job.tensors:
            holder[job.stored[info.name]].copy_(job.produce(info.name))
    return made

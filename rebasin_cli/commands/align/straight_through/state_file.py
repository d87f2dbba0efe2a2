"""The state of the straight-through estimator in the file that `--resume` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.kept_state import KeptState, data_circumstances
from rebasin_cli.commands.align.straight_through.estimator import LearningState
from rebasin_cli.errors import PermutationError
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.spec.binding.bound import BoundSpec

STATE = "rebasin.learning"


def write_state(
    file: Path, state: LearningState, models: tuple[Checkpoint, Checkpoint], request: AlignRequest
) -> None:
    """Write where learning stands, whole or not at all."""
    learned = {"free": state.free, "velocity": state.velocity}
    orders = {"current": state.current, "best": state.best}
    tensors = {f"{part}/{n}": t for part, all_ in learned.items() for n, t in all_.items()}
    tensors |= {
        f"{part}/{n}": p.index.int() for part, all_ in orders.items() for n, p in all_.items()
    }
    facts = {
        "losses": state.losses,
        "least": state.least,
        "best_epoch": state.best_epoch,
        "unit": state.unit,
    }
    _state_file(file, models, request).write(tensors, facts)


def read_state(
    file: Path,
    free: Mapping[str, Tensor],
    bound: BoundSpec,
    models: tuple[Checkpoint, Checkpoint],
    request: AlignRequest,
) -> LearningState:
    """Return where learning stood when a file was written. free: tensors of the form it needs.

    Raises CheckpointError if it is no such file, or one of other models, data or a held-out share.
    """
    kept = _state_file(file, models, request)
    held, facts = kept.read()
    try:
        return LearningState(
            free=_tensors(held, "free", free),
            velocity=_tensors(held, "velocity", free),
            current=_orders(held, "current", bound),
            best=_orders(held, "best", bound),
            least=float(facts["least"]),
            best_epoch=int(facts["best_epoch"]),
            losses=tuple(map(float, facts["losses"])),
            unit=float(facts["unit"]),
        )
    except (KeyError, TypeError, ValueError, PermutationError) as error:
        raise kept.refused("it does not hold the groups and tensors of the spec") from error


def _state_file(
    file: Path, models: tuple[Checkpoint, Checkpoint], request: AlignRequest
) -> KeptState:
    return KeptState(file, STATE, models, data_circumstances(request))


def _tensors(
    held: Mapping[str, Tensor], part: str, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a part. Raises ValueError for other shapes, KeyError for none."""
    found = {}
    for name, values in like.items():
        tensor = held[f"{part}/{name}"]
        if tensor.shape != values.shape:
            raise ValueError(name)
        found[name] = tensor.to(values)
    return found


def _orders(held: Mapping[str, Tensor], part: str, bound: BoundSpec) -> Permutations:
    """Return the permutations of a part. Raises ValueError for other shapes, KeyError for none."""
    found = {}
    for group in bound.groups.values():
        index = held[f"{part}/{group.name}"].long()
        if tuple(index.shape) != tuple(group.shape):
            raise ValueError(group.name)
        found[group.name] = Permutation(index, group.parents)
    return found

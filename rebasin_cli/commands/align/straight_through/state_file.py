"""The file that `--resume` names: where learning stands, for two checkpoints and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_tensors
from rebasin_cli.commands.align.request import AlignRequest
from rebasin_cli.commands.align.straight_through.estimator import LearningState
from rebasin_cli.errors import CheckpointError, PermutationError
from rebasin_cli.json_text import read_json
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.spec.binding.bound import BoundSpec

STATE, REFERENCE, MODEL = "rebasin.learning", "rebasin.reference", "rebasin.model"


def write_state(
    file: Path, state: LearningState, models: tuple[Checkpoint, Checkpoint], request: AlignRequest
) -> None:
    """Write where learning stands, whole or not at all."""
    learned = {"free": state.free, "velocity": state.velocity}
    orders = {"current": state.current, "best": state.best}
    tensors = {f"{part}/{n}": t.cpu() for part, all_ in learned.items() for n, t in all_.items()}
    tensors |= {
        f"{part}/{n}": p.index.int().cpu() for part, all_ in orders.items() for n, p in all_.items()
    }
    facts = {
        "losses": state.losses,
        "least": state.least,
        "best_epoch": state.best_epoch,
        "unit": state.unit,
        **_circumstances(request),
    }
    digests = {REFERENCE: models[0].sha256(), MODEL: models[1].sha256()}
    metadata = {STATE: json.dumps(facts, sort_keys=True), **digests}
    write_tensors(file, tensors, metadata=metadata, overwrite=True)


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
    with open_checkpoint(file) as held:
        facts = _facts(held, file)
        for key, model in zip((REFERENCE, MODEL), models, strict=True):
            if held.metadata.get(key) != model.sha256():
                raise _refused(file, f"it was written for another model than {model.path}")
        for name, now in _circumstances(request).items():
            if facts.get(name) != now:
                raise _refused(file, f"its {name} was {facts.get(name)}, now it is {now}")
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
            raise _refused(file, "it does not hold the groups and tensors of the spec") from error


def _circumstances(request: AlignRequest) -> dict[str, Any]:
    """Return what must not change between two parts of one run."""
    running = request.data
    return {
        "held-out share": request.learning.held_out,
        "seed": request.computing.seed,
        "data": running.data,
        "number of batches": running.batches,
    }


def _facts(held: Checkpoint, file: Path) -> Mapping[str, Any]:
    try:
        facts = read_json(held.metadata.get(STATE, ""))
    except ValueError as error:
        raise _refused(file, "this is not a state of learning") from error
    if not isinstance(facts, dict):
        raise _refused(file, "this is not a state of learning")
    return facts


def _tensors(held: Checkpoint, part: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a part. Raises ValueError for other shapes, KeyError for none."""
    found = {}
    for name, values in like.items():
        tensor = held.load(f"{part}/{name}")
        if tensor.shape != values.shape:
            raise ValueError(name)
        found[name] = tensor.to(values).clone()
    return found


def _orders(held: Checkpoint, part: str, bound: BoundSpec) -> Permutations:
    """Return the permutations of a part. Raises ValueError for other shapes, KeyError for none."""
    found = {}
    for group in bound.groups.values():
        index = held.load(f"{part}/{group.name}").long()
        if tuple(index.shape) != tuple(group.shape):
            raise ValueError(group.name)
        found[group.name] = Permutation(index, group.parents)
    return found


def _refused(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"learning cannot go on from here: {what}",
        where=str(file),
        hint="name a file that is not there yet with --resume to begin anew",
    )

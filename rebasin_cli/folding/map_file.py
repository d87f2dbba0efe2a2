"""The map file: a permutation file that has orthogonal matrices for some groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.errors import PermutationError
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.saved.permutation_file import (
    CONFIG,
    PASSED,
    SYMMETRY,
    Saved,
    bind_saved,
    check_shapes,
    object_in,
    origin_of,
    permutation_in,
)
from rebasin_cli.files.write import write_tensors_to
from rebasin_cli.folding.tied_heads import untie_heads, untied_spec
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.class_solvers import SOLVERS
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap

HEADS = "rebasin.untied"  # a JSON object: heads that are apart -> the embeddings that they were
ORTHOGONAL = "orthogonal"  # what the metadata say of such a file's symmetry
NEAR = 1e-9  # entries of a map that is of its class


@dataclass(frozen=True)
class SavedMaps:
    """A map file, bound to a checkpoint that it fits.

    model: the checkpoint, with those heads untied that were untied when the maps were found.
    folding: how its norms are folded first. maps: what is applied then. saved: the same file seen
    as a permutation file.
    """

    model: Checkpoint
    folding: FoldPlan
    maps: GroupMaps
    saved: Saved


def is_map_file(path: Path) -> bool:
    """Return whether a file has matrices beside permutations."""
    with open_checkpoint(path) as file:
        return SYMMETRY in file.metadata


def save_maps(
    place: OutputPlace | None,
    maps: GroupMaps,
    folding: FoldPlan,
    models: tuple[Checkpoint, Checkpoint],
    sizes: Mapping[str, int],
) -> Written | None:
    """Write the maps of a reference and a model, if a place is planned for them.

    int32 orders and float64 matrices (*parent sizes, n, n), one tensor for each group.
    """
    if place is None or place.skip:
        return None
    orders = {name: p.index.int() for name, p in maps.permutations.items()}
    matrices = {name: m.matrix.contiguous() for name, m in maps.linear.items()}
    metadata = {
        **origin_of(folding.bound, models, sizes),
        SYMMETRY: ORTHOGONAL,
        HEADS: json.dumps(dict(models[1].apart)),
    }
    return write_tensors_to(place, orders | matrices, metadata)


def read_maps(source: Path, checkpoint: Checkpoint) -> SavedMaps:
    """Return a map file bound to a checkpoint.

    Raises PermutationError if it is not such a file, or not one for this checkpoint.
    """
    with open_checkpoint(source) as file:
        if file.metadata.get(SYMMETRY) not in (None, ORTHOGONAL):
            raise PermutationError(
                "its maps are linear, and keep no model's function",
                where=str(source),
                hint="from Python: rebasin_cli.load_maps(FILE).apply(model, number)",
            )
        heads = {name: str(first) for name, first in object_in(file, source, HEADS).items()}
        (checkpoint,) = untie_heads([checkpoint], heads)
        bound = untied_spec(bind_saved(file, source, checkpoint), heads)
        folding = FoldPlan(bound, checkpoint.ties)
        maps = _maps_in(file, source, checkpoint, folding)
        saved = Saved(
            bound,
            maps.permutations,
            object_in(file, source, CONFIG),
            frozenset(object_in(file, source, PASSED)),
        )
        return SavedMaps(checkpoint, folding, maps, saved)


def _maps_in(
    file: Checkpoint, source: Path, checkpoint: Checkpoint, folding: FoldPlan
) -> GroupMaps:
    """Return the maps of all groups: a matrix where its class has one, else a permutation."""
    groups, classes = folding.moving.groups, folding.classes
    turned = {name: group for name, group in groups.items() if classes[name] != PERMUTATION}
    permuted = {name: group for name, group in groups.items() if name not in turned}
    matrices = {name: (*group.shape, group.size) for name, group in turned.items()}
    shapes = {name: group.shape for name, group in groups.items()}
    check_shapes(file, source, checkpoint, {**shapes, **matrices})
    return GroupMaps(
        {name: permutation_in(file, source, group) for name, group in permuted.items()},
        {name: _map_in(file, source, group, classes[name]) for name, group in turned.items()},
    )


def _map_in(file: Checkpoint, source: Path, group: BoundGroup, kind: str) -> OrthogonalMap:
    """Return the map of a group. Raises PermutationError if it is not of the group's class."""
    matrix = file.load(group.name)
    flat = matrix.reshape(-1, group.size, group.size)
    # The best map of a class for similarities that are such a map is that map.
    if matrix.dtype != torch.float64 or not bool(((SOLVERS[kind](flat) - flat).abs() < NEAR).all()):
        what = f"group {group.name!r}: its matrix is not one of class {kind!r}"
        raise PermutationError(what, where=str(source))
    return OrthogonalMap(matrix, group.parents)

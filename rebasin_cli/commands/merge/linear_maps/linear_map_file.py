"""The file of linear maps: what becomes of the units of every model that was merged.

A safetensors file with the entries of a permutation file about the spec and the models, and for
model N, from 1 as for --rename, N.GROUP.order, int32: its order of units, which comes first; and
for groups that are mapped N.GROUP.write and N.GROUP.read, float64, as in `LinearMap`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides
from rebasin_cli.commands.merge.linear_maps.linear_map import LinearMap, Mapped
from rebasin_cli.commands.merge.linear_maps.plan import LinearMapsPlan
from rebasin_cli.errors import PermutationError
from rebasin_cli.files.saved.permutation_file import SYMMETRY, bind_saved, object_in, origin_of
from rebasin_cli.files.write import write_tensors_to
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.axis_sides import Side
from rebasin_cli.tensors import TensorSource

LINEAR_MAPS = "linear"  # under SYMMETRY in the metadata: what `rebasin apply` does not take
SIDES, MODELS = "rebasin.sides", "rebasin.models"


def save_linear_maps(
    plan: LinearMapsPlan,
    permutations: Sequence[Permutations],
    maps: Mapping[str, Sequence[LinearMap]],
) -> Written | None:
    """Write the maps of all models, if a place is planned for them."""
    place, merge = plan.maps, plan.merge
    if place is None or place.skip:
        return None
    tensors: dict[str, Tensor] = {}
    for number in range(len(merge.models)):
        start = f"{number + 1}."
        orders = permutations[number].items()
        tensors |= {f"{start}{name}.order": found.index.int().cpu() for name, found in orders}
        for name, own in maps.items():
            tensors[f"{start}{name}.write"] = own[number].write.contiguous()
            tensors[f"{start}{name}.read"] = own[number].read.contiguous()
    reference = merge.models[merge.reference]
    metadata = {
        **origin_of(plan.choice.bound, (reference, reference), plan.request.selection.sizes),
        SYMMETRY: LINEAR_MAPS,
        SIDES: json.dumps(_told(plan, maps), sort_keys=True),
        MODELS: json.dumps([model.sha256() for model in merge.models]),
        "rebasin.method": plan.method,
        "rebasin.weights": json.dumps(list(merge.mixture.weights.models)),
    }
    return write_tensors_to(place, tensors, metadata)


def _told(plan: LinearMapsPlan, maps: Mapping[str, object]) -> dict[str, list[str | None]]:
    """Return the sides of the tensors that are mapped, as JSON values."""
    names = [t.members[0] for t in plan.choice.bound.tensors if t.groups & maps.keys()]
    return {
        name: [side.value if side else None for side in plan.sides[name]]
        for name in names
        if name in plan.sides
    }


@dataclass(frozen=True)
class ModelMaps:
    """What becomes of the units of one model; read from `file` when it is applied.

    number: of the model, from 1. sha256: of the checkpoint that the maps were found for.
    """

    file: Path
    number: int
    sha256: str

    def mapped(self, model: Checkpoint) -> TensorSource:
        """Return the model with its units in order and mapped; each in float32 or wider.

        Raises PermutationError if the maps do not fit it.
        """
        with open_checkpoint(self.file) as file:
            bound = bind_saved(file, self.file, model)
            stored = set(file.names())
            orders: dict[str, Permutation] = {}
            maps: dict[str, LinearMap] = {}
            for name, group in bound.groups.items():
                start = f"{self.number}.{name}."
                if f"{start}order" in stored:
                    index = file.load(f"{start}order").long()
                    orders[name] = Permutation(index, group.parents)
                if f"{start}write" in stored:
                    write, read = (file.load(f"{start}{end}") for end in ("write", "read"))
                    maps[name] = _checked(LinearMap(write, read), group.size, name, self.file)
            sides = _sides_in(file, self.file)
        return Mapped(Permuted(model, bound.tensors, orders), bound.tensors, maps, sides)


def read_linear_maps(path: Path) -> tuple[ModelMaps, ...]:
    """Return the maps of every model in a file.

    Raises PermutationError if it is no file of linear maps.
    """
    with open_checkpoint(path) as file:
        digests = _digests(file)
    if not digests:
        raise PermutationError(
            "this is no file of linear maps",
            where=str(path),
            hint="`rebasin merge --method zipit --save-maps FILE` writes one",
        )
    return tuple(ModelMaps(path, number, digest) for number, digest in enumerate(digests, 1))


def _digests(file: Checkpoint) -> list[str]:
    if file.metadata.get(SYMMETRY) != LINEAR_MAPS:
        return []
    try:
        found = json.loads(file.metadata.get(MODELS, "[]"))
    except ValueError:
        return []
    return [str(digest) for digest in found] if isinstance(found, list) else []


def _sides_in(file: Checkpoint, source: Path) -> Sides:
    try:
        return {
            name: tuple(None if side is None else Side(side) for side in sides)
            for name, sides in object_in(file, source, SIDES).items()
        }
    except (ValueError, TypeError) as error:
        what = f"its metadata entry {SIDES!r} is damaged"
        raise PermutationError(what, where=str(source)) from error


def _checked(found: LinearMap, size: int, name: str, source: Path) -> LinearMap:
    """Return a map. Raises PermutationError if it is not one of so many units."""
    for matrix in (found.write, found.read):
        if matrix.dtype != torch.float64 or matrix.shape != (size, size):
            detail = f"it is {tuple(matrix.shape)}, expected float64 {(size, size)}"
            what = f"group {name!r}: its map does not fit"
            raise PermutationError(what, where=str(source), detail=detail)
    return found

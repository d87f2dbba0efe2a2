"""What a file of statistics becomes when the units of one of its models change places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from rebasin_cli.activations.layer_places import UnitPlace, UnitPlaces
from rebasin_cli.activations.layer_statistics import LayerTensor, layer_tensor
from rebasin_cli.activations.statistics_file import SIDES
from rebasin_cli.activations.units import UnitDims
from rebasin_cli.commands.apply.movement import Reordering
from rebasin_cli.permutation import Permutations, gather
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import Derived, TensorSource

BY_UNIT = ("mean", "deviation")  # what tells of each unit of a layer by itself


@dataclass(frozen=True)
class CarriedTensors:
    """Tensors of a file of statistics, of the permuted model. left: names that it had besides."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    left: tuple[str, ...] = ()


def carried_groups(
    file: TensorSource, places: tuple[UnitDims, ...], side: int, permutations: Permutations
) -> dict[str, Tensor]:
    """Return the tensors of the groups. side: the number of the model whose units move."""
    found: dict[str, Tensor] = {}
    for number, dims in enumerate(places):
        for model, letter in enumerate(SIDES):
            for name in (f"{number}.mean.{letter}", f"{number}.variance.{letter}"):
                if name in file.names():
                    own = permutations if model == side else {}
                    found[name] = _moved(file.load(name), 0, dims, own)
        name = f"{number}.covariance"
        if name in file.names():
            found[name] = _moved(file.load(name), side, dims, permutations)
    return found


def _moved(values: Tensor, axis: int, dims: UnitDims, permutations: Permutations) -> Tensor:
    """Return values with the units along one axis in their new order."""
    groups = [name for name, _ in dims]
    before, after = [None] * axis, [None] * (values.dim() - axis - 1)
    sizes = (size for _, size in dims)
    apart = values.reshape(*values.shape[:axis], *sizes, *values.shape[axis + 1 :])
    return gather(apart, (*before, *groups, *after), permutations).reshape(values.shape)


def carried_layers(
    file: TensorSource, layers: UnitPlaces, side: int, model: TensorSource, movement: Reordering
) -> CarriedTensors:
    """Return the tensors of the layers. model: the one whose units move, before it does.

    Left is what is not known of the new order: of a layer whose units stand nowhere, and of two
    models how the units of one correlate with those that were others in the other.
    """
    known = {name: told for name in file.names() if (told := layer_tensor(name)) is not None}
    numbers = _number_units(file, known)
    units = _units_before(numbers, layers, model, movement)
    origins = _Origins(numbers, units, _of_all_units(file, numbers, side))
    found: dict[str, Tensor] = {}
    for name, told in known.items():
        moved = _layer_tensor(file, name, told, side, origins)
        if moved is not None:
            found[name] = moved
    return CarriedTensors(found, tuple(name for name in known if name not in found))


@dataclass(frozen=True)
class _Numbers:
    """The units of all layers, counted through. starts: the number of the first one of each."""

    starts: Mapping[str, int]
    sizes: Mapping[str, int]


def _number_units(file: TensorSource, known: Mapping[str, LayerTensor]) -> _Numbers:
    sizes = {
        told.layer: prod(file.info(name).shape)
        for name, told in known.items()
        if told.kind == "mean" and told.models == (0,)
    }
    starts, total = {}, 0
    for layer, size in sizes.items():
        starts[layer], total = total, total + size
    return _Numbers(starts, sizes)


@dataclass(frozen=True)
class _Origins:
    """Of each layer, the numbers of the units that its own were before; None: not known.

    values: by kind, what the units of all layers do, in the order of their numbers.
    """

    numbers: _Numbers
    units: Mapping[str, Tensor | None]
    values: Mapping[str, Tensor]


def _units_before(
    numbers: _Numbers, layers: UnitPlaces, model: TensorSource, movement: Reordering
) -> dict[str, Tensor | None]:
    present = set(model.names())
    placed = {
        layer: places
        for layer, places in layers.items()
        if layer in numbers.starts and all(_place_fits(place, model, present) for place in places)
    }
    owners = {p.tensor: (p, numbers.starts[layer]) for layer in placed for p in placed[layer]}
    before = _UnitNumbers(model, owners)
    after = Permuted(before, movement.tensors, movement.permutations)
    return {
        layer: _origin(placed.get(layer, ()), numbers.starts[layer], size, before, after)
        for layer, size in numbers.sizes.items()
    }


def _place_fits(place: UnitPlace, model: TensorSource, present: set[str]) -> bool:
    there = place.tensor in present
    return there and len(model.info(place.tensor).shape) == len(place.steps)


def _origin(
    places: tuple[UnitPlace, ...], start: int, size: int, before: TensorSource, after: TensorSource
) -> Tensor | None:
    """Return what the units of a layer were, None unless every place of theirs says the same."""
    found = torch.full((size,), -1)
    for place in places:
        own, come = before.load(place.tensor).flatten() - start, after.load(place.tensor).flatten()
        if not bool(((own >= 0) & (own < size)).all()):
            return None
        found[own] = come
        if not torch.equal(found[own], come):
            return None
    return found if bool((found >= 0).all()) else None


class _UnitNumbers(Derived):
    """The tensors of a model, with the number of its unit at every place; -1: of no layer."""

    def __init__(self, model: TensorSource, owners: Mapping[str, tuple[UnitPlace, int]]) -> None:
        super().__init__(model)
        self._owners = owners

    def load(self, name: str) -> Tensor:
        shape = self.info(name).shape
        if name not in self._owners:
            return torch.full(shape, -1)
        place, start = self._owners[name]
        return place.units(shape) + start


def _layer_tensor(
    file: TensorSource, name: str, told: LayerTensor, side: int, origins: _Origins
) -> Tensor | None:
    """Return a tensor of a layer in the new order, None where that is not known."""
    units = origins.units.get(told.layer)
    if units is None:
        return None
    start, size = origins.numbers.starts[told.layer], origins.numbers.sizes[told.layer]
    still = torch.equal(units, torch.arange(start, start + size))
    if side not in told.models or still:
        return file.load(name)
    if told.kind in BY_UNIT:
        return origins.values[told.kind][units]
    own = units - start
    if told.kind != "covariance" or not bool(((own >= 0) & (own < size)).all()):
        return None
    return file.load(name).index_select(told.models.index(side), own)


def _of_all_units(file: TensorSource, numbers: _Numbers, side: int) -> dict[str, Tensor]:
    """Return the means and deviations of a model's units, of all layers behind one another."""
    rows = {
        kind: [file.load(f"layer.{n}.{kind}.{side}") for n in numbers.starts] for kind in BY_UNIT
    }
    return {kind: torch.cat(found) for kind, found in rows.items() if found}

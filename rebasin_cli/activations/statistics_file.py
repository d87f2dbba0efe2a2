"""A file of what the units of a model, or of two, do on data: its form, and how it is read.

Tensors whose names begin with a number are of groups, those that begin with `layer.` are of layers
(`layer_statistics` reads them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.activations.layer_places import UnitPlace, UnitPlaces
from rebasin_cli.activations.measured_model import MeasuredModel, model_digest
from rebasin_cli.activations.moments import Moments
from rebasin_cli.activations.units import UnitDims, UnitMoments
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.errors import CheckpointError
from rebasin_cli.files.saved.permutation_file import SPEC
from rebasin_cli.json_text import read_json
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse

KEY = "rebasin.statistics"
VERSION = 1
SIDES = "ab"
_MOST = 1 << 31  # units of a layer


@dataclass(frozen=True)
class Statistics:
    """A file of statistics, from its header.

    spec: whose groups it tells of. moment: `after` or `before` the activation. models: in their
    order. dims: the groups of each place, with their sizes. layers: where units of layers stand;
    None: a file of an earlier version does not tell.
    """

    path: Path
    spec: Spec
    moment: str
    models: tuple[MeasuredModel, ...]
    dims: tuple[UnitDims, ...] = ()
    layers: UnitPlaces | None = None

    def are_of(self, *models: MeasuredModel) -> bool:
        """Return whether they are of these models, in this order."""
        if len(models) != len(self.models):
            return False
        return all(own.same_as(model) for own, model in zip(self.models, models, strict=True))

    def tell_of(self, model: MeasuredModel) -> bool:
        """Return whether a model is one of theirs."""
        return any(own.same_as(model) for own in self.models)

    def known(self, model: Checkpoint) -> MeasuredModel:
        """Return by what a checkpoint is compared; its tensors are read where its file is new."""
        file = model.sha256()
        by_tensors = any(own.tensors for own in self.models)
        by_file = any(own.file == file for own in self.models)
        tensors = model_digest(model, model) if by_tensors and not by_file else None
        return MeasuredModel(file, tensors)


def statistics_tensors(units: Sequence[UnitMoments]) -> dict[str, Tensor]:
    """Return the tensors of the groups: `N.mean.a`, `N.variance.a`, of a pair `N.covariance`.

    N: the number of the place. a, b: the models. All float64.
    """
    found = {}
    for number, one in enumerate(units):
        for side, moments in zip(SIDES, one.models, strict=False):
            found[f"{number}.mean.{side}"] = moments.mean
            found[f"{number}.variance.{side}"] = moments.variance
        if one.products is not None:
            found[f"{number}.covariance"] = one.cross.covariance
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def statistics_metadata(
    spec: str,
    units: Sequence[UnitMoments],
    models: Sequence[MeasuredModel],
    layers: UnitPlaces,
    facts: Mapping[str, object],
) -> dict[str, str]:
    """Return the metadata of a file. facts: whatever else a reader may want to know."""
    places = [{"dims": one.dims, "place": one.place, "count": one.count} for one in units]
    stand = {n: [(p.tensor, p.first, p.steps) for p in every] for n, every in layers.items()}
    record = {"version": VERSION, "places": places, "layers": stand, **facts}
    return {KEY: json.dumps({**record, **_digests(models)}, sort_keys=True), SPEC: spec}


def of_other_models(file: Checkpoint, models: Sequence[MeasuredModel]) -> dict[str, str]:
    """Return the metadata of a file whose models became others."""
    record = _record(file, file.path)
    return {KEY: json.dumps({**record, **_digests(models)}, sort_keys=True)}


def _digests(models: Sequence[MeasuredModel]) -> dict[str, list[str | None]]:
    return {"sha256": [m.file for m in models], "tensors": [m.tensors for m in models]}


def read_statistics(path: Path) -> Statistics:
    """Return what the header of a file says. Raises CheckpointError for another kind of file."""
    with open_checkpoint(path) as file:
        return statistics_in(file)


def statistics_in(file: Checkpoint) -> Statistics:
    """Return what the header of an open file says, as `read_statistics` does."""
    path = file.path
    record = _record(file, path)
    try:
        files = record["sha256"]
        known = zip(files, record.get("tensors", [None] * len(files)), strict=True)
        return Statistics(
            path=path,
            spec=parse(file.metadata[SPEC], source=f"{path} (spec)"),
            moment=str(record["moment"]),
            models=tuple(MeasuredModel(_text(f), _text(t)) for f, t in known),
            dims=tuple(_dims(place) for place in record["places"]),
            layers=_layers(record["layers"]) if "layers" in record else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _damaged_file(path) from error


def _text(digest: object) -> str | None:
    return None if digest is None else str(digest)


def _dims(place: Mapping[str, Any]) -> UnitDims:
    return tuple((str(name), int(n)) for name, n in place["dims"])


def _layers(record: Mapping[str, Any]) -> UnitPlaces:
    return {
        str(name): tuple(
            UnitPlace(str(tensor), _number(first), tuple(map(_number, steps)))
            for tensor, first, steps in places
        )
        for name, places in record.items()
    }


def _number(value: object) -> int:
    """Return a number of units. Raises ValueError for what is none."""
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(value)
    return value


def load_units(statistics: Statistics) -> list[UnitMoments]:
    """Return the moments in a file. Raises CheckpointError where its parts do not fit together."""
    with open_checkpoint(statistics.path) as file:
        record = _record(file, statistics.path)
        try:
            return [
                _units(file, number, place, len(statistics.models))
                for number, place in enumerate(record["places"])
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged_file(statistics.path) from error


def _record(file: Checkpoint, path: Path) -> Mapping[str, Any]:
    if KEY not in file.metadata or SPEC not in file.metadata:
        raise CheckpointError(
            "this is not a file of statistics",
            where=str(path),
            hint="`rebasin statistics A B --model TARGET --data FILE` writes one",
        )
    try:
        record = read_json(file.metadata[KEY])
    except ValueError as error:
        raise _damaged_file(path) from error
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise _damaged_file(path)
    return record


def _units(file: Checkpoint, number: int, place: Mapping[str, Any], models: int) -> UnitMoments:
    """Return the moments at one place. Raises ValueError for tensors of another shape or dtype."""
    count, dims = int(place["count"]), _dims(place)
    size = 1
    for _, units in dims:
        size *= units
    found = []
    for side in SIDES[:models]:
        mean = _tensor(file, f"{number}.mean.{side}", (size,))
        variance = _tensor(file, f"{number}.variance.{side}", (size,))
        found.append(Moments(count, mean, variance * count))
    products = None
    if models > 1:
        products = _tensor(file, f"{number}.covariance", (size, size)) * count
    return UnitMoments(dims, str(place["place"]), tuple(found), products)


def _tensor(file: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in file.names() or file.info(name).shape != shape:
        raise ValueError(name)
    tensor = file.load(name)
    if tensor.dtype != torch.float64 or not bool(torch.isfinite(tensor).all()):
        raise ValueError(name)
    return tensor


def _damaged_file(path: Path) -> CheckpointError:
    return CheckpointError("this file of statistics is damaged", where=str(path))

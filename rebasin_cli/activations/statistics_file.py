"""A file of what the units of a model, or of two, do on data: its form, and how it is read.

Tensors whose names begin with a number are of groups, those that begin with `layer.` are of layers
(`evaluate.layer_statistics` reads them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.activations.moments import Moments
from rebasin_cli.activations.units import UnitMoments
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.errors import CheckpointError
from rebasin_cli.json_text import read_json
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse

KEY, SPEC = "rebasin.statistics", "rebasin.spec"
VERSION = 1
_SIDES = "ab"


@dataclass(frozen=True)
class Statistics:
    """A file of statistics, from its header.

    spec: whose groups it tells of. moment: `after` or `before` the activation. digests: SHA-256 of
    the models, in their order.
    """

    path: Path
    spec: Spec
    moment: str
    digests: tuple[str, ...]


def statistics_tensors(units: Sequence[UnitMoments]) -> dict[str, Tensor]:
    """Return the tensors of the groups: `N.mean.a`, `N.variance.a`, of a pair `N.covariance`.

    N: the number of the place. a, b: the models. All float64.
    """
    found = {}
    for number, one in enumerate(units):
        for side, moments in zip(_SIDES, one.models, strict=False):
            found[f"{number}.mean.{side}"] = moments.mean
            found[f"{number}.variance.{side}"] = moments.variance
        if one.products is not None:
            found[f"{number}.covariance"] = one.cross.covariance
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def statistics_metadata(
    spec: str, units: Sequence[UnitMoments], digests: Sequence[str], facts: Mapping[str, object]
) -> dict[str, str]:
    """Return the metadata of a file. facts: whatever else a reader may want to know."""
    places = [{"dims": one.dims, "place": one.place, "count": one.count} for one in units]
    record = {"version": VERSION, "sha256": list(digests), "places": places, **facts}
    return {KEY: json.dumps(record, sort_keys=True), SPEC: spec}


def read_statistics(path: Path) -> Statistics:
    """Return what the header of a file says. Raises CheckpointError for another kind of file."""
    with open_checkpoint(path) as file:
        record = _record(file, path)
        try:
            digests = tuple(map(str, record["sha256"]))
            return Statistics(
                path=path,
                spec=parse(file.metadata[SPEC], source=f"{path} (spec)"),
                moment=str(record["moment"]),
                digests=digests,
            )
        except (KeyError, TypeError) as error:
            raise _damaged(path) from error


def load_units(statistics: Statistics) -> list[UnitMoments]:
    """Return the moments in a file. Raises CheckpointError where its parts do not fit together."""
    with open_checkpoint(statistics.path) as file:
        record = _record(file, statistics.path)
        try:
            return [
                _units(file, number, place, len(statistics.digests))
                for number, place in enumerate(record["places"])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(statistics.path) from error


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
        raise _damaged(path) from error
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise _damaged(path)
    return record


def _units(file: Checkpoint, number: int, place: Mapping[str, Any], models: int) -> UnitMoments:
    """Return the moments at one place. Raises ValueError for tensors of another shape or dtype."""
    count, dims = int(place["count"]), tuple((str(name), int(n)) for name, n in place["dims"])
    size = 1
    for _, units in dims:
        size *= units
    found = []
    for side in _SIDES[:models]:
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


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError("this file of statistics is damaged", where=str(path))

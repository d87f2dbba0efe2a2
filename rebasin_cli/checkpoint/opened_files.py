"""The files of a model opened, and whether they fit together; headers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rebasin_cli.checkpoint.distributed.distributed_files import DistributedFile
from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.checkpoint.folder import WeightSet
from rebasin_cli.checkpoint.torch_format.container import PartError
from rebasin_cli.checkpoint.torch_format.torch_file import TorchFile
from rebasin_cli.checkpoint.weight_file import WeightFile, open_weights
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import CheckpointError, Problem

_STALE = "get index and shards again, of one model; without an index shards are read as they are"


@dataclass(frozen=True)
class Reading:
    """How files are read.

    key: the part of a nested PyTorch file that holds the weights, as a dotted path. renames: see
    `seen_names`. ignoring: leave out objects of foreign classes. dequantise: codes that only take
    scales to be read are seen as the weights that they stand for. adapters: a folder may hold an
    adapter. weightless: a PyTorch file is one of training states, without weights.
    """

    key: str | None = None
    renames: tuple[tuple[str, str], ...] = ()
    ignoring: bool = False
    dequantise: bool = False
    adapters: bool = False
    weightless: bool = False


def open_files(weights: WeightSet, reading: Reading) -> list[WeightFile]:
    """Return the files of a model.

    Raises CheckpointError for damaged ones, all of them, and for shards that do not fit one
    another or their index.
    """
    opened = _open_all(weights, reading)
    if weights.index:
        _require_index_fits(weights, opened)
    else:
        _require_apart(weights, opened)
    return opened


def _open_all(weights: WeightSet, reading: Reading) -> list[WeightFile]:
    open_file = weights.mirror.open if weights.mirror else OpenFile
    if weights.pieces:
        return [DistributedFile([open_file(path) for path in weights.files], key=reading.key)]
    opened: list[WeightFile] = []
    errors: list[CheckpointError] = []
    for path in weights.files:
        try:
            opened.append(_open_file(open_file(path), reading))
        except CheckpointError as error:
            errors.append(error)
    if not errors:
        return opened
    kind = PartError if all(isinstance(error, PartError) for error in errors) else CheckpointError
    raise kind(*cap_problems([problem for error in errors for problem in error.problems]))


def _open_file(file: OpenFile, reading: Reading) -> WeightFile:
    if reading.weightless:
        return TorchFile(file, key=None, ignoring=reading.ignoring, weightless=True)
    return open_weights(file, key=reading.key, ignoring=reading.ignoring)


def _require_index_fits(weights: WeightSet, opened: Sequence[WeightFile]) -> None:
    """Raise unless index and shards agree; a stale index would mix two models."""
    where = str((weights.folder or Path()) / (weights.index or ""))
    stored = {(name, weights.name_of(file.file.path)) for file in opened for name in file.infos}
    mapped = set(weights.weight_map.items())
    problems = [
        Problem(f"the index says tensor {name!r} is in {shard!r}, but it is not there", where=where)
        for name, shard in sorted(mapped - stored)
    ]
    problems += [
        Problem(f"tensor {name!r} is in {shard!r}, but the index does not say so", where=where)
        for name, shard in sorted(stored - mapped)
    ]
    if problems:
        *told, last = cap_problems(problems)
        raise CheckpointError(*told, replace(last, hint=_STALE))
    if len({file.format for file in opened}) > 1:
        raise CheckpointError("the shards are of two formats", where=where)


def _require_apart(weights: WeightSet, opened: Sequence[WeightFile]) -> None:
    """Raise if a tensor is in two shards that have no index to say which of them counts."""
    count = Counter(name for file in opened for name in file.infos)
    problems = [
        Problem(f"tensor {name!r} is in {number} of the shards", where=str(weights.folder))
        for name, number in count.items()
        if number > 1
    ]
    if problems:
        raise CheckpointError(*cap_problems(problems))

"""Checkpoints opened for reading: headers at once, tensors on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.configuration import CONFIG
from rebasin_cli.checkpoint.dequantised import dequantised
from rebasin_cli.checkpoint.disk import expanded
from rebasin_cli.checkpoint.failures import capped, reading
from rebasin_cli.checkpoint.folder import WeightSet, find_weights
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import Rest
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.checkpoint.weight_file import WeightFile, open_weights
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.tensors import TensorInfo, TensorSource

# What wrapping a model for parallel training or compilation puts before every name.
_PREFIXES = ("module.", "_orig_mod.")


class Checkpoint:
    """An open checkpoint: a TensorSource, and a context manager that closes its files.

    path: as named, `~` expanded. files: the weight files, sorted. ties: alias -> first name of
    tensors that share their memory. `load` may be called from several threads. Names are
    without the prefix that wrappers put before all of them.
    """

    def __init__(
        self, path: Path, weights: WeightSet, opened: Sequence[WeightFile], key: str | None
    ) -> None:
        self.path = path
        self.files = weights.files
        self.metadata: Mapping[str, str] = opened[0].metadata
        self._opened = tuple(opened)
        self._weights = weights
        self._key = key
        prefix = common_prefix(name for file in opened for name in file.infos)
        self._prefix = prefix
        self._owner = {name.removeprefix(prefix): file for file in opened for name in file.infos}
        self.ties: Mapping[str, str] = {
            alias.removeprefix(prefix): first.removeprefix(prefix)
            for file in opened
            for alias, first in file.ties.items()
        }

    def names(self) -> tuple[str, ...]:
        return tuple(self._owner)

    def info(self, name: str) -> TensorInfo:
        return replace(self._owner[name].infos[self._prefix + name], name=name)

    def load(self, name: str) -> Tensor:
        return self._owner[name].load(self._prefix + name)

    @property
    def rest(self) -> Rest:
        """What is in the file beside the weights; of several files, what is in none of them."""
        rests = [file.rest for file in self._opened]
        return rests[0] if len(rests) == 1 else Rest()

    def part(self, key: str) -> PartSource:
        """Return another part of the file, under the names that the weights are seen with."""
        (file,) = self._opened
        names = next(part.names for part in file.rest.parts if part.key == key)
        seen = {n: names[self._prefix + n] for n in self.names() if self._prefix + n in names}
        return PartSource(file.parts[key], seen)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The config.json of the folder, or beside the file; empty if there is none of any use.

        Raises MachineError for one that may not be read: what it says may matter.
        """
        return _config(self._weights, self.path)

    @cached_property
    def layout(self) -> Layout:
        """What is needed to write another checkpoint in the same form."""
        return _layout(self._weights, self._opened, self._prefix, self._key, self.ties)

    def sha256(self) -> str:
        """Return the digest of the file, or of the list of several files' names and digests."""
        named = {self._weights.name_of(file.file.path): file.file for file in self._opened}
        return combined_digest({name: file.sha256 for name, file in named.items()})

    def close(self) -> None:
        for file in self._opened:
            file.file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class PartSource:
    """A part beside the weights as a TensorSource, under the names that those are seen with.

    stored: each name -> that in the part.
    """

    def __init__(self, part: TensorSource, stored: Mapping[str, str]) -> None:
        self._part, self.stored = part, stored

    def names(self) -> tuple[str, ...]:
        return tuple(self.stored)

    def info(self, name: str) -> TensorInfo:
        return replace(self._part.info(self.stored[name]), name=name)

    def load(self, name: str) -> Tensor:
        return self._part.load(self.stored[name])


def _config(weights: WeightSet, path: Path) -> Mapping[str, Any]:
    config = (weights.folder or path.parent) / CONFIG
    try:
        with reading(config):
            data = config.read_bytes()
        return parse_object(data, where=CONFIG, what="the configuration")
    except CheckpointError:
        return {}


def open_checkpoint(
    path: str | Path, *, key: str | None = None, dequantise: bool = False
) -> Checkpoint:
    """Open a weight file, a folder or the index of a sharded checkpoint; read headers only.

    key: the part of a nested PyTorch file that holds the weights, as a dotted path. dequantise:
    codes that only take scales to be read are seen as the weights that they stand for.
    Raises CheckpointError for a file that is missing, damaged, wants to run code or does not
    fit its index, with all independent problems; MachineError for one that may not be read.
    """
    named = expanded(path)
    weights = find_weights(named)
    opened = _open_all(weights, key)
    if weights.index:
        _require_index_fits(weights, opened)
    if dequantise:
        opened = list(dequantised(opened, _config(weights, named), str(named)))
    return Checkpoint(named, weights, opened, key)


def common_prefix(names: Iterable[str]) -> str:
    """Return the wrappers' prefix that all names have, repeated ones included."""
    names = list(names)
    prefix = ""
    while names:
        found = next((prefix + each for each in _PREFIXES if _all_have(names, prefix + each)), None)
        if found is None:
            break
        prefix = found
    return prefix


def _all_have(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) and name != prefix for name in names)


def combined_digest(digests: Mapping[str, str]) -> str:
    """Return the only digest, or that of the lines `name NUL digest`, sorted."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _open_all(weights: WeightSet, key: str | None) -> list[WeightFile]:
    opened: list[WeightFile] = []
    problems: list[Problem] = []
    for path in weights.files:
        try:
            opened.append(open_weights(path, key=key))
        except CheckpointError as error:
            problems.extend(error.problems)
    if problems:
        raise CheckpointError(*capped(problems))
    return opened


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
    if len({file.format for file in opened}) > 1:
        problems.append(Problem("the shards are of two formats", where=where))
    if problems:
        raise CheckpointError(*capped(problems))


def _layout(
    weights: WeightSet,
    opened: Sequence[WeightFile],
    prefix: str,
    key: str | None,
    ties: Mapping[str, str],
) -> Layout:
    nested = (
        {}
        if opened[0].format == "safetensors"
        else {
            weights.name_of(file.file.path) if weights.folder else "": file.file.path
            for file in opened
        }
    )
    shards = {
        name.removeprefix(prefix): weights.name_of(file.file.path)
        for file in opened
        for name in file.infos
    }
    return Layout(
        format="pt" if nested else "safetensors",
        prefix=prefix,
        folder=weights.folder,
        shards=shards if weights.folder else {},
        index=weights.index,
        notes=weights.notes,
        containers=nested,
        key=key,
        ties=ties,
    )

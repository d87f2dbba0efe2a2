"""Checkpoints opened for reading: headers at once, tensors on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.configuration import CONFIG
from rebasin_cli.checkpoint.failures import changed_in_use, reading
from rebasin_cli.checkpoint.folder import WeightSet, find_weights
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.opened_files import Reading, open_files
from rebasin_cli.checkpoint.parts import PartSource, Rest
from rebasin_cli.checkpoint.quantization.dequantized import dequantize_files
from rebasin_cli.checkpoint.remote.mirror import Mirror
from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.checkpoint.renamed import seen_names
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.checkpoint.weight_file import HeldOpen, WeightFile
from rebasin_cli.checkpoint.writing.disk import combined_digest
from rebasin_cli.errors import CheckpointError, RebasinError
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.ranges import InRanges, Ranged
from rebasin_cli.wording import count

DERIVED = ("ties", "layout")  # what a checkpoint under other names works out anew


class Checkpoint:
    """An open checkpoint: a TensorSource, and a context manager that closes its files.

    path: as named, `~` expanded. files: the weight files, sorted, or what stands here for them.
    ties: alias -> first name of tensors that share their memory. `load` may be called from several
    threads. Names are without what wrappers put into them. dropped: what was left out of nested
    files, and its class. extra: what modules keep beside their tensors. apart: untied heads, see
    `parting`.
    """

    def __init__(self, path: Path, weights: WeightSet, opened: Sequence[WeightFile]) -> None:
        self.path = path
        self.files = weights.files
        self.metadata: Mapping[str, str] = opened[0].metadata
        self._opened = tuple(opened)
        self._weights = weights
        self._reading = Reading()
        self._owner = {name: file for file in opened for name in file.infos}
        self._stored = {name: name for name in self._owner}
        self._lent: Mapping[str, str] = {}
        self.apart: Mapping[str, str] = {}
        self._undivided: Checkpoint | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where it is and how it is seen: whoever unpickles it opens the same again."""
        seen = {name: vars(self)[name] for name in ("_stored", "_lent", "apart", "_undivided")}
        return _opened_again, (self.path, self._reading, seen, [f.stamp for f in self.opened])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}: {count(len(self.names()), 'tensor')}>"

    def read_as(self, reading: Reading) -> Checkpoint:
        """Return this checkpoint under the names that it is seen with."""
        stored = {name: file.infos[name] for name, file in self._owner.items()}
        names = seen_names(stored, reading.renames, where=str(self.path))
        return self._changed(_reading=reading, _stored=names)

    def renamed(self, names: Mapping[str, str], lent: Mapping[str, str]) -> Checkpoint:
        """Return this checkpoint under other names; it shares the open files.

        names: name of a tensor -> its new name, for those that change. lent: further names for
        tensors -> the new name of the tensor that each is another name of.
        """
        stored = {names.get(seen, seen): stored for seen, stored in self._stored.items()}
        return self._changed(
            _stored={**stored, **{alias: stored[first] for alias, first in lent.items()}},
            _lent={**{names.get(a, a): names.get(f, f) for a, f in self._lent.items()}, **lent},
        )

    def parting(self, heads: Mapping[str, str]) -> Checkpoint:
        """Return this checkpoint with output heads untied: tensors of their own.

        heads: name of a head -> the embedding whose values it has. The head need not be in the
        file. `apart` of the result is `heads`, `undivided` the checkpoint as it was.
        Raises CheckpointError if other sets of weights in the file have no such tensors.
        """
        new = {name: first for name, first in heads.items() if name not in self._stored}
        if new and self.rest.parts:
            raise CheckpointError(
                f"{next(iter(new))!r} would be a tensor of its own in the weights alone",
                where=str(self.path),
                detail=f"the file has other parts: {', '.join(p.key for p in self.rest.parts)}",
                hint="--tie keep, or a file of the weights alone",
            )
        found = self.renamed({}, new)
        return found._changed(apart=heads, _undivided=self)

    @property
    def undivided(self) -> Checkpoint:
        """This checkpoint before any head was untied by `parting`."""
        return self._undivided or self

    def _changed(self, **attributes: object) -> Checkpoint:
        kept = {name: value for name, value in vars(self).items() if name not in DERIVED}
        other = object.__new__(type(self))
        vars(other).update({**kept, **attributes})
        return other

    @cached_property
    def ties(self) -> Mapping[str, str]:
        seen = {stored: name for name, stored in self._stored.items() if name not in self._lent}
        own = {seen[a]: seen[first] for file in self._opened for a, first in file.ties.items()}
        shared = {a: self.apart.get(f, f) for a, f in {**own, **self._lent}.items()}
        return {a: f for a, f in shared.items() if a not in self.apart and a != f}

    @property
    def in_pieces(self) -> bool:
        """Whether it is a distributed checkpoint; what is written like it is not."""
        return self._weights.pieces

    @property
    def dropped(self) -> Mapping[str, str]:
        return {path: kind for file in self._opened for path, kind in file.dropped.items()}

    @property
    def extra(self) -> tuple[str, ...]:
        return tuple(name for file in self._opened for name in file.extra)

    def names(self) -> tuple[str, ...]:
        return tuple(self._stored)

    def stored_name(self, name: str) -> str:
        """Return the name that the file has for a tensor."""
        return self._stored[name]

    def info(self, name: str) -> TensorInfo:
        stored = self._stored[name]
        return replace(self._owner[stored].infos[stored], name=name)

    def load(self, name: str) -> Tensor:
        stored = self._stored[name]
        return self._owner[stored].load(stored)

    def ranged(self, name: str) -> Ranged | None:
        stored = self._stored[name]
        file = self._owner[stored]
        return file.ranged(stored) if isinstance(file, InRanges) else None

    @property
    def rest(self) -> Rest:
        """What a single file holds beside the weights; of several files nothing counts."""
        return self._opened[0].rest if len(self._opened) == 1 else Rest()

    def part(self, key: str) -> PartSource:
        """Return another part of the file, under the names that the weights are seen with."""
        (file,) = self._opened
        names = next(part.names for part in file.rest.parts if part.key == key)
        seen = {n: names[stored] for n, stored in self._stored.items() if stored in names}
        return PartSource(file.parts[key], seen)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The config.json of the folder, or beside the file; empty if there is none of any use.

        Raises MachineError for one that may not be read: what it says may matter.
        """
        return _config(self._weights)

    @property
    def home(self) -> Path:
        """The folder of the files that go with the weights, on this machine."""
        return self._weights.home

    @cached_property
    def layout(self) -> Layout:
        """What is needed to write another checkpoint in the same form."""
        weights, folder = self._weights, self._weights.folder
        places = {n: weights.name_of(file.file.path) for n, file in self._owner.items()}
        nested = self._containers() if self._opened[0].format == "pt" else {}
        return Layout(
            format="pt" if nested else "safetensors",
            stored={**self._stored, **self._stored_beside()},
            folder=folder,
            shards={n: places[stored] for n, stored in self._stored.items()} if folder else {},
            index=weights.index,
            notes=weights.notes,
            containers=nested,
            key=self._reading.key,
            ignoring=self._reading.ignoring,
            weightless=self._reading.weightless,
            ties=self.ties,
        )

    def _stored_beside(self) -> dict[str, str]:
        """Return what tensors that are apart and not in the file yet are to be called there."""
        return {
            name: self._stored[first].removesuffix(first) + name
            if self._stored[first].endswith(first)
            else name
            for name, first in self.apart.items()
            if name in self._lent
        }

    def _containers(self) -> dict[str, Path]:
        named = self._weights.name_of if self._weights.folder else lambda path: ""
        return {named(file.path): file.path for file in self.opened}

    @property
    def opened(self) -> tuple[HeldOpen, ...]:
        """What its digest is of."""
        return tuple(file.file for file in self._opened)

    def sha256(self) -> str:
        """Return the digest of the file, or of the list of several files' names and digests."""
        return combined_digest({self._weights.name_of(f.path): f.sha256 for f in self.opened})

    def close(self) -> None:
        for file in self.opened:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _config(weights: WeightSet) -> Mapping[str, Any]:
    config = weights.home / CONFIG
    try:
        with reading(config):
            data = config.read_bytes()
        return parse_object(data, where=CONFIG, what="the configuration")
    except CheckpointError:
        return {}


def open_checkpoint(
    path: str | Path, *, key: str | None = None, reading: Reading | None = None
) -> Checkpoint:
    """Open a weight file, a folder or the index of a sharded checkpoint; read headers only.

    path: may be a URL. key: see `Reading`, all of which `reading` says.
    Raises CheckpointError for a file that is missing, damaged, wants to run code or does not
    fit its index, with all independent problems; MachineError for one that may not be read.
    """
    reading = reading or Reading(key=key)
    named = named_path(path)
    if not isinstance(named, RemotePath):
        return _open(named, find_weights(named, adapters=reading.adapters), reading)
    mirror = Mirror(named)
    try:
        found = find_weights(mirror.path, adapters=reading.adapters)
        return _open(named, replace(found, mirror=mirror), reading)
    except RebasinError as error:
        raise mirror.named(error) from error


def _open(named: Path, weights: WeightSet, reading: Reading) -> Checkpoint:
    opened = open_files(weights, reading)
    if reading.dequantise:
        opened = list(dequantize_files(opened, _config(weights), str(named)))
    return Checkpoint(named, weights, opened).read_as(reading)


def _opened_again(
    path: Path, reading: Reading, seen: Mapping[str, Any], stamps: Sequence[object]
) -> Checkpoint:
    found = open_checkpoint(path, reading=reading)
    if [file.stamp for file in found.opened] != stamps:
        raise changed_in_use(path)
    return found._changed(**seen)

"""A distributed checkpoint as one weight file: each tensor is put together when it is loaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.checkpoint.distributed.piece_index import StoredPiece, read_index
from rebasin_cli.checkpoint.endings import TorchFormat
from rebasin_cli.checkpoint.parts import Rest
from rebasin_cli.checkpoint.torch_format.container import (
    find_state_dict,
    is_extra_state,
    tensors_in_state,
)
from rebasin_cli.checkpoint.writing.disk import OpenFile, combined_digest
from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import TensorSource


class OpenPieces:
    """The files of a distributed checkpoint, held open.

    path: where its weights would be in one file: a result that is made like it has them there.
    """

    def __init__(self, files: Sequence[OpenFile]) -> None:
        self.path = files[0].path.with_name("model.safetensors")
        self._files = {file.path.name: file for file in files}
        self.stamp = [file.stamp for file in files[1:]]  # a store's index is a copy of its own

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file. Raises CheckpointError if it has them not."""
        file = self._files.get(name)
        if file is None or offset + length > file.size:
            raise CheckpointError(
                f"its file {name!r} is missing or cut short",
                where=str(self.path.parent),
                hint="copy the whole folder again",
            )
        return file.read(offset, length)

    @cached_property
    def sha256(self) -> str:
        """The digest of the list of names and digests."""
        return combined_digest({name: file.sha256 for name, file in self._files.items()})

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class DistributedFile:
    """The weights in a distributed checkpoint, under the names that the saved state had for them.

    A tensor is read piece by piece: memory holds the tensor and its largest piece.
    """

    format: TorchFormat = "safetensors"  # of what is written like it
    rest = Rest()

    def __init__(self, files: Sequence[OpenFile], *, key: str | None) -> None:
        self.file = OpenPieces(files)
        where = files[0].path
        self._index = read_index(where.read_bytes(), where=str(where))
        stand_ins = {
            name: torch.empty(info.shape, dtype=info.dtype, device="meta")
            for name, info in self._index.infos.items()
        }
        container = _nested(self._index.paths, stand_ins)
        state = find_state_dict(container, key=key, path=where.parent)
        saved = {id(tensor): name for name, tensor in stand_ins.items()}
        self._saved = {name: saved[id(tensor)] for name, tensor in tensors_in_state(state).items()}
        infos = self._index.infos
        self.infos = {name: replace(infos[old], name=name) for name, old in self._saved.items()}
        self.metadata: Mapping[str, str] = {}
        self.ties: Mapping[str, str] = {}
        self.parts: Mapping[str, TensorSource] = {}
        self.dropped: Mapping[str, str] = {}
        self.extra = tuple(filter(is_extra_state, self.infos))

    def load(self, name: str) -> Tensor:
        info = self.infos[name]
        whole = torch.empty(info.shape, dtype=info.dtype, device="cpu")
        for piece in self._index.pieces[self._saved[name]]:
            box = [slice(a, a + n) for a, n in zip(piece.start, piece.sizes, strict=True)]
            whole[tuple(box)] = self._piece(name, piece, info.dtype)
        return whole

    def _piece(self, name: str, piece: StoredPiece, dtype: torch.dtype) -> Tensor:
        data = self.file.read(piece.file, piece.offset, piece.length)
        try:
            found = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise self._damaged(name, piece) from error
        if not isinstance(found, Tensor) or found.dtype != dtype or found.shape != piece.sizes:
            raise self._damaged(name, piece)
        return found

    def _damaged(self, name: str, piece: StoredPiece) -> CheckpointError:
        where = str(self.file.path.with_name(piece.file))
        return CheckpointError(f"damaged: a piece of tensor {name!r}", where=where)


def _nested(paths: Mapping[str, tuple[Any, ...]], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    """Return the state that was saved, of nested dicts."""
    whole: dict[Any, Any] = {}
    for name, path in paths.items():
        place = whole
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = tensors[name]
    return whole

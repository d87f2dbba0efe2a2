"""The index of a distributed checkpoint, `.metadata`: which piece of which tensor is where.

It is a pickle of torch's own dataclasses. Nothing of it is imported or called here: a class that it
names becomes a record of what it is filled with, so that a hostile file can do nothing and a later
version of torch with other classes is still read.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import TensorInfo

INDEX = ".metadata"
ENDING = ".distcp"
_MOST = 10_000_000  # cells of a grid of pieces


def pieces_among(names: Sequence[str]) -> list[str]:
    """Return the index and the files of pieces among names; none if there is no such checkpoint."""
    pieces = sorted(name for name in names if name.endswith(ENDING))
    return [INDEX, *pieces] if INDEX in names and pieces else []


@dataclass(frozen=True)
class StoredPiece:
    """A box of a tensor, and the bytes of a file that hold it, in the format of torch.save."""

    start: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class PieceIndex:
    """What a distributed checkpoint holds.

    pieces: of each tensor. paths: the keys that lead to a tensor in the state that was saved.
    """

    infos: Mapping[str, TensorInfo]
    pieces: Mapping[str, tuple[StoredPiece, ...]]
    paths: Mapping[str, tuple[Any, ...]]


class _InertObject:
    """What stands for an object of any class."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)
        else:
            self.state = state


class _InertUnpickler(pickle._Unpickler):
    # that of C makes room for as many objects as a hostile file says that there will be
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        named = getattr(torch, name, None) if module == "torch" else None
        return named if isinstance(named, torch.dtype) else _InertObject


def read_index(data: bytes, *, where: str) -> PieceIndex:
    """Return the index in the bytes of a file.

    Raises CheckpointError if they are none, or if the pieces of a tensor do not make it whole.
    """
    try:
        index = _index(_InertUnpickler(BytesIO(data)).load())
    except CheckpointError:
        raise
    except Exception as error:  # any instruction of a damaged pickle may fail, in any way
        hint = "it may be cut short; copy it again"
        raise CheckpointError("damaged index of pieces", where=where, hint=hint) from error
    for name, pieces in index.pieces.items():
        if not _is_whole(index.infos[name], pieces):
            raise CheckpointError(
                f"the pieces of tensor {name!r} do not make it whole", where=where
            )
    return index


def _index(record: Any) -> PieceIndex:
    # what has no offset is no tensor: torch leaves the field out
    stored = {
        (key.fqn, tuple(getattr(key, "offset", None) or ())): place
        for key, place in record.storage_data.items()
    }
    tensors = {
        str(name): entry for name, entry in record.state_dict_metadata.items() if _is_tensor(entry)
    }
    paths = record.planner_data or {}
    return PieceIndex(
        infos={
            name: TensorInfo(name, _sizes(entry.size), _dtype(entry.properties))
            for name, entry in tensors.items()
        },
        pieces={
            name: tuple(_piece(box, stored[name, _sizes(box.offsets)]) for box in entry.chunks)
            for name, entry in tensors.items()
        },
        paths={name: tuple(paths.get(name, (name,))) for name in tensors},
    )


def _is_tensor(entry: Any) -> bool:
    return hasattr(entry, "chunks")


def _dtype(properties: Any) -> torch.dtype:
    """Return the dtype among the properties of a tensor: the first of a tuple, or by name."""
    found = properties.state[0] if hasattr(properties, "state") else properties.dtype
    if not isinstance(found, torch.dtype):
        raise TypeError(found)
    return found


def _sizes(sizes: Any) -> tuple[int, ...]:
    found = tuple(sizes)
    if not all(isinstance(size, int) and size >= 0 for size in found):
        raise ValueError(found)
    return found


def _piece(box: Any, place: Any) -> StoredPiece:
    if getattr(place, "transform_descriptors", None):
        hint = "save it without extensions of the writer"
        raise CheckpointError("its pieces are packed, which is not supported", hint=hint)
    name = PurePosixPath(str(place.relative_path))
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise ValueError(place)
    sizes = _sizes(box.sizes)
    offset, length = _sizes((place.offset, place.length))
    return StoredPiece(_sizes(box.offsets), sizes, str(name), offset, length)


def _is_whole(info: TensorInfo, pieces: tuple[StoredPiece, ...]) -> bool:
    """Tell whether boxes fill a tensor, each element once, and have the bytes for it.

    Their edges cut the tensor into a grid, which is small: the boxes of a mesh of processes are
    its cells. Every cell has to be in one box.
    """
    shape = info.shape
    if any(prod(p.sizes) * info.dtype.itemsize > p.length for p in pieces):
        return False
    if any(len(p.start) != len(shape) or len(p.sizes) != len(shape) for p in pieces):
        return False
    ends = [tuple(a + n for a, n in zip(p.start, p.sizes, strict=True)) for p in pieces]
    filled = [(p.start, end) for p, end in zip(pieces, ends, strict=True) if 0 not in p.sizes]
    cuts = [
        sorted({0, size, *(box[side][axis] for box in filled for side in (0, 1))})
        for axis, size in enumerate(shape)
    ]
    cells = [len(cut) - 1 for cut in cuts]
    if any(cut[-1] > size for cut, size in zip(cuts, shape, strict=True)) or prod(cells) > _MOST:
        return False
    count = np.zeros(cells, dtype=np.int32)
    for start, end in filled:
        edges = zip(cuts, start, end, strict=True)
        count[tuple(slice(cut.index(a), cut.index(b)) for cut, a, b in edges)] += 1
    return bool((count == 1).all())

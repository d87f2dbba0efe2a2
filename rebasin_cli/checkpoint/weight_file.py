"""One weight file of either format, opened by what it contains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rebasin_cli.checkpoint.endings import ENDINGS, TorchFormat, file_ending, format_of
from rebasin_cli.checkpoint.foreign import READ_AHEAD, foreign_file
from rebasin_cli.checkpoint.header import LENGTH, MAX_HEADER, HeaderEntry, read_header
from rebasin_cli.checkpoint.parts import Rest
from rebasin_cli.checkpoint.torch_format.container import PartError, is_extra_state
from rebasin_cli.checkpoint.torch_format.torch_file import TorchFile
from rebasin_cli.checkpoint.torch_format.unpickle import ZIP_MAGIC
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import TensorInfo, TensorSource
from rebasin_cli.tensors.ranges import Ranged

# How a pickle starts, by its protocol: PyTorch files of before 2020 are a row of them.
_PICKLED = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class HeldOpen(Protocol):
    """What weights are read from: a file, or several that are read as one."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...

    @property
    def stamp(self) -> object: ...

    def close(self) -> None: ...


class WeightFile(Protocol):
    """One open file of tensors, under the names it stores."""

    @property
    def format(self) -> TorchFormat: ...

    @property
    def file(self) -> HeldOpen: ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def ties(self) -> Mapping[str, str]: ...

    @property
    def rest(self) -> Rest: ...

    @property
    def parts(self) -> Mapping[str, TensorSource]:
        """The parts of the rest by dotted path, under the names that they store."""

    @property
    def dropped(self) -> Mapping[str, str]: ...

    @property
    def extra(self) -> tuple[str, ...]: ...

    def load(self, name: str) -> Tensor:
        """Return a tensor in CPU memory."""


class SafetensorsFile:
    """A safetensors file. Tensors are read by position: only what is loaded takes memory."""

    format: TorchFormat = "safetensors"

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self._header = read_header(file)
        self.infos = {name: entry.info for name, entry in self._header.entries.items()}
        self.metadata = self._header.metadata
        self.ties: Mapping[str, str] = {}
        self.rest = Rest()
        self.parts: Mapping[str, TensorSource] = {}
        self.dropped: Mapping[str, str] = {}
        self.extra = tuple(filter(is_extra_state, self.infos))

    def load(self, name: str) -> Tensor:
        info = self.infos[name]
        return self.ranged(name)(0, info.numel).reshape(info.shape)

    def ranged(self, name: str) -> Ranged:
        return partial(self._read, self._header.entries[name])

    def _read(self, entry: HeaderEntry, begin: int, end: int) -> Tensor:
        dtype = entry.info.dtype
        values = torch.empty(end - begin, dtype=dtype, device="cpu")
        if end > begin:
            # numpy knows neither bfloat16 nor float8; every dtype can be seen as bytes.
            place = self._header.start + entry.begin + begin * dtype.itemsize
            self.file.read_into(values.view(torch.uint8).numpy().data, place)
        return values


def open_weights(file: OpenFile, *, key: str | None, ignoring: bool = False) -> WeightFile:
    """Read one weight file; raise CheckpointError if its ending and its content disagree."""
    if _format(file) == "pt":
        file.fetch_all()
        return TorchFile(file, key=key, ignoring=ignoring)
    if key is not None:
        raise PartError(
            "a safetensors file has no nested parts", where=str(file.path), hint="leave out --key"
        )
    return SafetensorsFile(file)


def _format(file: OpenFile) -> TorchFormat:
    where = str(file.path)
    if not file.size:
        raise CheckpointError("the file is empty", where=where)
    start = file.read(0, min(file.size, READ_AHEAD))
    foreign = foreign_file(file.path.name, start)
    if foreign:
        raise foreign.refusal(where)
    named, found = format_of(file.path), _sniff(start, file.size)
    if named and found and named != found:
        ending = ".safetensors" if found == "safetensors" else ".pt"
        raise CheckpointError(
            f"the name ends in {file_ending(file.path)} but this is a {found} file",
            where=where,
            hint=f"rename it to end in {ending}",
        )
    if named or found:
        return named or found or "pt"
    known = " ".join(ENDINGS)
    raise CheckpointError("not a known kind of file", where=where, detail=f"known: {known}")


def _sniff(start: bytes, size: int) -> TorchFormat | None:
    # First, because the length of a header may have the bytes that pickles start with: 640 has.
    if start[LENGTH.size : LENGTH.size + 1] == b"{":
        length = LENGTH.unpack(start[: LENGTH.size])[0]
        if length <= min(MAX_HEADER, size):
            return "safetensors"
    return "pt" if start.startswith((ZIP_MAGIC, *_PICKLED)) else None

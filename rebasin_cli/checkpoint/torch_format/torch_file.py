"""A PyTorch file as a weight file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rebasin_cli.checkpoint.endings import TorchFormat
from rebasin_cli.checkpoint.parts import rest_of, value_at
from rebasin_cli.checkpoint.torch_format.container import (
    find_state_dict,
    is_extra_state,
    tensors_in_state,
)
from rebasin_cli.checkpoint.torch_format.unpickle import in_own_order, is_mapped, load_container
from rebasin_cli.checkpoint.writing.disk import MappedPart, OpenFile, forget_pages
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.tensors import InMemory, TensorInfo


class TorchFile:
    """A PyTorch file, mapped to see what is in it, and read by position; a legacy one is in memory.

    weightless: of one that holds states of training alone, which are all beside its weights.
    """

    format: TorchFormat = "pt"

    def __init__(
        self, file: OpenFile, *, key: str | None, ignoring: bool = False, weightless: bool = False
    ) -> None:
        loaded = load_container(file.path, ignoring=ignoring)
        container = loaded.value
        state = {} if weightless else find_state_dict(container, key=key, path=file.path)
        self.file = file
        self.dropped = loaded.dropped
        self.extra = tuple(name for name in state if is_extra_state(name))
        self.rest = rest_of(container, state)
        self.parts = {
            part.key: _PartOf(self, tensors_in_state(value_at(container, part.path)))
            for part in self.rest.parts
        }
        self._mapped = is_mapped(file.path)
        self._as_stored = self._mapped and in_own_order(file.path)
        self._part: MappedPart | None = None
        self._tensors = {name: tensor.detach() for name, tensor in tensors_in_state(state).items()}
        require_plain(self._tensors, str(file.path))
        self.infos = {
            name: TensorInfo(name, tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._tensors.items()
        }
        self.metadata: Mapping[str, str] = {}
        self.ties = shared_memory(self._tensors)

    def load(self, name: str) -> Tensor:
        return self.read(self._tensors[name])

    def read(self, tensor: Tensor) -> Tensor:
        """Return a tensor of this file in CPU memory."""
        self.file.require_unchanged()
        if not self._mapped:
            return tensor
        found = self._read_by_position(tensor)
        if found is not None:
            return found
        # A copy, so that the pages can go: what is held in memory is what the caller holds.
        copy = tensor.clone()
        if self._as_stored:  # the file has nothing of what torch has turned over
            storage = tensor.untyped_storage()
            forget_pages(storage.data_ptr(), storage.nbytes())
        return copy

    def _read_by_position(self, tensor: Tensor) -> Tensor | None:
        """Return a tensor as the file has it, no page of the mapping touched; None: it cannot be.

        A file that is cut short in the middle of that is an error, where a page would be a signal.
        """
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        place = self._place(tensor, span) if tensor.numel() and self._as_stored else None
        if place is None or tensor.is_conj() or tensor.is_neg():
            return None
        values = torch.empty(span, dtype=tensor.dtype, device="cpu")
        self.file.read_into(values.view(torch.uint8).numpy().data, place)
        found = values.as_strided(tensor.shape, tensor.stride())
        return found if span == tensor.numel() else found.clone()

    def _place(self, tensor: Tensor, span: int) -> int | None:
        """Return where so many elements of a tensor are in the file."""
        address = tensor.data_ptr()
        if self._part is None:
            self._part = MappedPart.at(address, self.file.inode)
        return self._part.place(address, span * tensor.dtype.itemsize) if self._part else None


class _PartOf(InMemory):
    """Other tensors of a file, which are read as its weights are."""

    def __init__(self, file: TorchFile, tensors: Mapping[str, Tensor]) -> None:
        super().__init__({name: tensor.detach() for name, tensor in tensors.items()})
        self._file = file

    def load(self, name: str) -> Tensor:
        return self._file.read(super().load(name))


def require_plain(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError for tensors that are more, or less, than numbers in an array."""
    kinds = {name: _kind(tensor) for name, tensor in tensors.items()}
    problems = [
        Problem(f"tensor {name!r} is {kind}, which is not supported", where=where)
        for name, kind in kinds.items()
        if kind
    ]
    if problems:
        raise CheckpointError(*problems)


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    return "without data" if tensor.is_meta else ""


def shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return alias -> first name of tensors that are one in memory."""
    first: dict[object, str] = {}
    ties = {}
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.numel():
            continue
        storage = tensor.untyped_storage().data_ptr()
        place = storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        if first.setdefault(place, name) != name:
            ties[name] = first[place]
    return ties

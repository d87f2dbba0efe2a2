"""A PyTorch file as a weight file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rebasin_cli.checkpoint.endings import TorchFormat
from rebasin_cli.checkpoint.parts import descend, rest_of
from rebasin_cli.checkpoint.torch_format.container import (
    find_state_dict,
    is_extra_state,
    tensors_of,
)
from rebasin_cli.checkpoint.torch_format.unpickle import is_mapped, load_container
from rebasin_cli.checkpoint.writing.disk import OpenFile, forget_pages
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.tensors import InMemory, TensorInfo


class TorchFile:
    """A PyTorch file, mapped rather than read; a legacy one is in memory as a whole.

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
            part.key: _PartOf(self, tensors_of(descend(container, part.path)))
            for part in self.rest.parts
        }
        self._mapped = is_mapped(file.path)
        self._tensors = {name: tensor.detach() for name, tensor in tensors_of(state).items()}
        _require_plain(self._tensors, str(file.path))
        self.infos = {
            name: TensorInfo(name, tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._tensors.items()
        }
        self.metadata: Mapping[str, str] = {}
        self.ties = _ties(self._tensors)

    def load(self, name: str) -> Tensor:
        return self.read(self._tensors[name])

    def read(self, tensor: Tensor) -> Tensor:
        """Return a tensor of this file in CPU memory."""
        # A mapped file that was cut short would kill the process when its pages are touched.
        self.file.require_unchanged()
        if not self._mapped:
            return tensor
        # A copy, so that the pages can go: what is held in memory is what the caller holds.
        copy = tensor.clone()
        storage = tensor.untyped_storage()
        forget_pages(storage.data_ptr(), storage.nbytes())
        return copy


class _PartOf(InMemory):
    """Other tensors of a file, which are read as its weights are."""

    def __init__(self, file: TorchFile, tensors: Mapping[str, Tensor]) -> None:
        super().__init__({name: tensor.detach() for name, tensor in tensors.items()})
        self._file = file

    def load(self, name: str) -> Tensor:
        return self._file.read(super().load(name))


def _require_plain(tensors: Mapping[str, Tensor], where: str) -> None:
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


def _ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return alias -> first name for tensors that are the very same numbers in memory."""
    first: dict[tuple[object, ...], str] = {}
    ties = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        original = first.setdefault(place, name) if tensor.numel() else name
        if original != name:
            ties[name] = original
    return ties

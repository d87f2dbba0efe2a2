"""A model of which some tensors are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from rebasin_cli.tensors import TensorInfo, TensorSource


class Replaced:
    """A TensorSource with some tensors given; all others are those of a source, bit for bit."""

    def __init__(self, source: TensorSource, tensors: Mapping[str, Tensor]) -> None:
        self._source, self._tensors = source, tensors

    def names(self) -> Sequence[str]:
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        return self._source.info(name)

    def load(self, name: str) -> Tensor:
        return self._tensors[name] if name in self._tensors else self._source.load(name)

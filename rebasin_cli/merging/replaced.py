"""A model of which some tensors are others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rebasin_cli.tensors import Derived, TensorSource


class Replaced(Derived):
    """A TensorSource with some tensors given; all others are those of a source, bit for bit."""

    def __init__(self, source: TensorSource, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(source)
        self._tensors = tensors

    def load(self, name: str) -> Tensor:
        return self._tensors[name] if name in self._tensors else super().load(name)

"""Sources made of others: tensors from several, and some tensors replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from rebasin_cli.tensors import Derived, TensorInfo, TensorSource
from rebasin_cli.tensors.ranges import Ranged, ranges_of


class Gathered:
    """A TensorSource of tensors that others have under other names.

    places: by name, the source and the name of the tensor in it.
    """

    def __init__(self, places: Mapping[str, tuple[TensorSource, str]]) -> None:
        self._places = dict(places)

    def names(self) -> Sequence[str]:
        return tuple(self._places)

    def info(self, name: str) -> TensorInfo:
        source, inner = self._places[name]
        return replace(source.info(inner), name=name)

    def load(self, name: str) -> Tensor:
        source, inner = self._places[name]
        return source.load(inner)

    def ranged(self, name: str) -> Ranged | None:
        source, inner = self._places[name]
        return ranges_of(source, inner)


class Replaced(Derived):
    """A TensorSource with some tensors given; all others are those of a source, bit for bit."""

    def __init__(self, source: TensorSource, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(source)
        self._tensors = tensors

    def load(self, name: str) -> Tensor:
        return self._tensors[name] if name in self._tensors else super().load(name)

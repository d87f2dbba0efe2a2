"""Models of which some tensors are longer or shorter: the part that both have, and the rest.

Another vocabulary, other classes, other input channels. In the middle of two such models the common
part is averaged and the rest is that of the base; while they are matched the rest counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.tensors import Derived, TensorInfo, TensorSource
from rebasin_cli.tensors.ranges import Ranged, ranges_of


@dataclass(frozen=True)
class Shared:
    """What one axis of a tensor has in common in two models.

    size: of the axis in the base. base, other: equally many positions in either, in one order.
    """

    size: int
    base: Tensor
    other: Tensor


Overlap = Mapping[str, Mapping[int, Shared]]
"""By tensor and axis, for those axes alone along which two models are not the same."""


EQUAL: Overlap = {}


class CommonPart(Derived):
    """A TensorSource in the shapes of a base: zero wherever the model has nothing in common."""

    def __init__(self, source: TensorSource, overlap: Overlap) -> None:
        super().__init__(source)
        self._overlap = overlap

    def info(self, name: str) -> TensorInfo:
        info = self._source.info(name)
        sizes = {axis: shared.size for axis, shared in self._overlap.get(name, {}).items()}
        shape = tuple(sizes.get(axis, size) for axis, size in enumerate(info.shape))
        return replace(info, shape=shape)

    def ranged(self, name: str) -> Ranged | None:
        return None if name in self._overlap else ranges_of(self._source, name)

    def load(self, name: str) -> Tensor:
        tensor = self._source.load(name)
        for axis, shared in self._overlap.get(name, {}).items():
            shape = (*tensor.shape[:axis], shared.size, *tensor.shape[axis + 1 :])
            whole = torch.zeros(shape, dtype=tensor.dtype)
            whole[(slice(None),) * axis + (shared.base,)] = tensor.index_select(axis, shared.other)
            tensor = whole
        return tensor


class Completed(Derived):
    """A TensorSource of a common part with the rest of the base: what only the base has."""

    def __init__(self, part: TensorSource, base: TensorSource, overlap: Overlap) -> None:
        super().__init__(part)
        self._base, self._overlap = base, overlap

    def ranged(self, name: str) -> Ranged | None:
        return None if name in self._overlap else ranges_of(self._source, name)

    def load(self, name: str) -> Tensor:
        tensor = self._source.load(name)
        if name not in self._overlap:
            return tensor
        both = torch.ones([], dtype=torch.bool)
        for axis, shared in self._overlap[name].items():
            here = torch.zeros(shared.size, dtype=torch.bool)
            here[shared.base] = True
            both = both & here.view(-1, *[1] * (tensor.dim() - axis - 1))
        return torch.where(both, tensor, self._base.load(name))

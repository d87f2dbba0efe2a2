"""Models that are computed from others, tensor by tensor, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.merging.mixing import blend, weighted_mean
from rebasin_cli.tensors import Derived, TensorSource


class Finite(Derived):
    """A TensorSource that refuses what cannot be averaged.

    load raises NotFiniteError, naming the tensor and `label`, if a value is NaN or infinite.
    Tensors that `selects` leaves out pass through.
    """

    def __init__(
        self, source: TensorSource, label: str, hint: str, selects: Callable[[str], bool]
    ) -> None:
        super().__init__(source)
        self._label, self._hint, self._selects = label, hint, selects

    def load(self, name: str) -> Tensor:
        tensor = self._source.load(name)
        checked = tensor.dtype.is_floating_point and self._selects(name)
        if checked and not all_finite(tensor):
            what = f"tensor {name!r} holds NaN or infinity"
            raise NotFiniteError(what, where=self._label, hint=self._hint)
        return tensor


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; float8 types are widened to be asked."""
    narrow = tensor.dtype.itemsize == 1
    return bool(torch.isfinite(tensor.to(torch.float32) if narrow else tensor).all())


class Mean(Derived):
    """A TensorSource whose floating tensors are weighted means of those of other sources.

    Integers, and tensors that `selects` leaves out, are those of the reference.
    Floating tensors are loaded in float32 or wider.
    """

    def __init__(
        self,
        sources: Sequence[TensorSource],
        weights: Sequence[float],
        reference: int,
        selects: Callable[[str], bool],
    ) -> None:
        super().__init__(sources[reference])
        self._sources, self._weights, self._selects = sources, weights, selects

    def load(self, name: str) -> Tensor:
        if not self.info(name).floating or not self._selects(name):
            return super().load(name)
        return weighted_mean((source.load(name) for source in self._sources), self._weights)


class Between(Derived):
    """A TensorSource on the path from a to b: (1 - alpha) a + alpha b, or the arc.

    Integers, and tensors that `selects` leaves out, are those of a.
    """

    def __init__(
        self,
        ends: tuple[TensorSource, TensorSource],
        alpha: float,
        mode: str,
        selects: Callable[[str], bool],
    ) -> None:
        super().__init__(ends[0])
        self._other, self._alpha, self._mode, self._selects = ends[1], alpha, mode, selects

    def load(self, name: str) -> Tensor:
        if not self.info(name).floating or not self._selects(name):
            return super().load(name)
        return blend(self._mode, super().load(name), self._other.load(name), self._alpha)

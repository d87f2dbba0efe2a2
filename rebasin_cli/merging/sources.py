"""Models that are computed from others, tensor by tensor, as they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.merging.mean import MODES, weighted_mean
from rebasin_cli.merging.whole import has_mean, in_all
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.numbers import in_reals


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
        checked = self.info(name).floating and self._selects(name)
        if checked and not all_finite(tensor):
            what = f"tensor {name!r} holds NaN or infinity"
            raise NotFiniteError(what, where=self._label, hint=self._hint)
        return tensor


def all_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; float8 types are widened to be asked."""
    narrow = tensor.dtype.itemsize == 1
    return bool(torch.isfinite(tensor.to(torch.float32) if narrow else in_reals(tensor)).all())


class Mixed(Derived, ABC):
    """A TensorSource made of several, with a weight for each; subclasses say how, in `_mix`.

    Floating tensors are mixed, in float32 or wider. What is not floating in every source has no
    mean: it is that of the source with the largest weight, of the reference among equals. Tensors
    that `selects` leaves out, or that a source lacks, are those of the reference. A source of
    weight 0 is not read, and one that is alone gives its tensors as they are.
    """

    def __init__(
        self,
        sources: Sequence[TensorSource],
        weights: Sequence[float],
        reference: int,
        selects: Callable[[str], bool],
    ) -> None:
        super().__init__(sources[reference])
        heaviest = max(range(len(sources)), key=lambda k: (weights[k], k == reference))
        self._heaviest, self._selects = sources[heaviest], selects
        pairs = zip(sources, weights, strict=True)
        self._live = [(source, weight) for source, weight in pairs if weight]
        self._shared = in_all(source for source, _ in self._live)

    def load(self, name: str) -> Tensor:
        if name not in self._shared or not self._selects(name):
            return super().load(name)
        if not has_mean(name, [source for source, _ in self._live]):
            return self._heaviest.load(name)
        if len(self._live) == 1:
            return self._live[0][0].load(name)
        return self._mix(name)

    @abstractmethod
    def _mix(self, name: str) -> Tensor:
        """Return what the sources of some weight make of a tensor that they all have."""


class Mean(Mixed):
    """A TensorSource whose floating tensors are weighted means of those of other sources."""

    def _mix(self, name: str) -> Tensor:
        weights = [weight for _, weight in self._live]
        return weighted_mean((source.load(name) for source, _ in self._live), weights)


class Between(Mixed):
    """A TensorSource on the path from a to b: (1 - alpha) a + alpha b, or the arc."""

    def __init__(
        self,
        ends: tuple[TensorSource, TensorSource],
        alpha: float,
        mode: str,
        selects: Callable[[str], bool],
    ) -> None:
        super().__init__(ends, (1 - alpha, alpha), 0, selects)
        self._alpha, self._blend = alpha, MODES[mode]

    def _mix(self, name: str) -> Tensor:
        a, b = (source.load(name) for source, _ in self._live)
        return self._blend(a, b, self._alpha)

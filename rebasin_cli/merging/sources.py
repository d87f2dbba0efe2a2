"""Models that are computed from others, tensor by tensor, as they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.merging.mean import BY_ELEMENT, MODES, weighted_mean
from rebasin_cli.merging.whole_numbers import has_mean, in_all
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.numbers import all_finite
from rebasin_cli.tensors.ranges import Ranged, ranges_of


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
        return self._checked(name, tensor) if self._counts(name) else tensor

    def ranged(self, name: str) -> Ranged | None:
        read = ranges_of(self._source, name)
        if read is None or not self._counts(name):
            return read
        return lambda begin, end: self._checked(name, read(begin, end))

    def _counts(self, name: str) -> bool:
        return self.info(name).floating and self._selects(name)

    def _checked(self, name: str, values: Tensor) -> Tensor:
        if not all_finite(values):
            what = f"tensor {name!r} holds NaN or infinity"
            raise NotFiniteError(what, where=self._label, hint=self._hint)
        return values


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

    def mixes(self, name: str) -> bool:
        """Return whether a tensor is mixed: whether all sources have it, and it has a mean."""
        here = name in self._shared and self._selects(name)
        return here and has_mean(name, [source for source, _ in self._live])

    def load(self, name: str) -> Tensor:
        sources = self._makers(name)
        if len(sources) == 1:
            return sources[0].load(name)
        return self._mix(source.load(name) for source in sources)

    def ranged(self, name: str) -> Ranged | None:
        reads = [ranges_of(source, name) for source in self._makers(name)]
        known = [read for read in reads if read is not None]
        if len(known) < len(reads):
            return None
        if len(known) == 1:
            return known[0]
        return lambda begin, end: self._mix(read(begin, end) for read in known)

    def _makers(self, name: str) -> Sequence[TensorSource]:
        """Return the sources that a tensor is made of; one alone gives its own."""
        live = [source for source, _ in self._live]
        if name not in self._shared or not self._selects(name):
            return [self._source]
        return live if has_mean(name, live) else [self._heaviest]

    @abstractmethod
    def _mix(self, tensors: Iterable[Tensor]) -> Tensor:
        """Return what sources of some weight make of their tensors, or of one range of them."""


class Mean(Mixed):
    """A TensorSource whose floating tensors are weighted means of those of other sources."""

    def _mix(self, tensors: Iterable[Tensor]) -> Tensor:
        return weighted_mean(tensors, [weight for _, weight in self._live])


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
        self._alpha, self._mode = alpha, mode

    def ranged(self, name: str) -> Ranged | None:
        return super().ranged(name) if self._mode in BY_ELEMENT else None

    def _mix(self, tensors: Iterable[Tensor]) -> Tensor:
        a, b = tensors
        return MODES[self._mode](a, b, self._alpha)

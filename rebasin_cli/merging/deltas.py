"""What models have learnt since their base, tensor by tensor, and how that is put together.

All in the dtype of the differences, and in ranges: of a tensor that is read in ranges nothing is
held but these, of another it alone. arXiv numbers are those of the papers whose formulas these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from rebasin_cli.merging.combination import STOCK, Combination
from rebasin_cli.merging.order_statistics import kth_size
from rebasin_cli.merging.products import products_of_ranges, products_of_wholes
from rebasin_cli.tensors.ranges import IN_CACHE, Ranged


@dataclass(frozen=True)
class Delta:
    """The difference of one tensor of a model to that of the base, seen flat.

    model: its number. size: how many real numbers it has. dtype: theirs. open: how they are read, a
    range at a time; whoever reads them may write to them. It loads a tensor that can only be had
    whole, and what it returns holds that. in_ranges: no tensor is such a one.
    """

    name: str
    model: int
    weight: float
    size: int
    dtype: torch.dtype
    open: Callable[[], Ranged]
    in_ranges: bool = True


# Returns what is to be added to the base, before it is scaled. There is at least one delta; ranges
# are read in turn.
StepRule = Callable[[Sequence[Delta], Combination], Ranged]


def add_up(deltas: Sequence[Delta]) -> Ranged:
    """Return sum(w d): task arithmetic (arXiv 2212.04089)."""

    def step(begin: int, end: int) -> Tensor:
        total = torch.full((end - begin,), -0.0, dtype=deltas[0].dtype)  # -0.0 + x is x
        for delta in deltas:
            read = delta.open()
            for own, part in _parts(begin, end):
                total[own].add_(read(*part).mul_(delta.weight))
        return total

    return step


def trim(delta: Delta, density: float) -> Delta:
    """Return a delta with its largest values alone: round(density n) of n, at least one.

    Those as large as the least of these stay too, so that the order of units decides nothing.
    TIES (arXiv 2306.01708), where the values of all tensors are compared with one another; here as
    in other tools those of one tensor, which need not all be read.
    """
    kept = max(1, round(density * delta.size))
    least = kth_size(delta.open(), delta.size, delta.size - kept + 1)
    return _changed(delta, lambda values, _: values.masked_fill_(values.abs() < least, 0))


def drop_at_random(delta: Delta, combination: Combination) -> Delta:
    """Return a delta whose values are divided by the density with that probability, else set to 0.

    DARE (arXiv 2311.03099). What is dropped depends on the seed, the name of the tensor and the
    number of the model alone, and not on the file that it is in.
    """
    text = f"{combination.seed} {delta.model} {delta.name}".encode("utf-8", "surrogatepass")
    drawn = _UniformNumbers(int.from_bytes(sha256(text).digest()[:8], "big") >> 1)

    def drop(values: Tensor, begin: int) -> Tensor:
        dropped = drawn.take(begin, len(values)) >= combination.density
        return values.div_(combination.density).masked_fill_(dropped, 0)

    return _changed(delta, drop)


def elect(deltas: Sequence[Delta]) -> Ranged:
    """Return at each place the mean of those deltas that have the sign of their sum, by weight.

    sum(w d) / sum(|w|) over them, 0 where the sum is 0: the election and the mean of TIES. A
    negative weight turns a delta round.
    """

    def step(begin: int, end: int) -> Tensor:
        above, below = (_Agreeing(end - begin, deltas[0].dtype) for _ in range(2))
        for delta in deltas:
            read = delta.open()
            for own, part in _parts(begin, end):
                values = read(*part).mul_(delta.weight)
                above.add(own, values.clamp(min=0), abs(delta.weight))
                below.add(own, values.clamp(max=0), abs(delta.weight))
        for own, _ in _parts(begin, end):
            up, down = above.total[own], below.total[own]
            sign = torch.sign(up + down)
            chosen = torch.where(sign < 0, below.mean(own), torch.zeros_like(up))
            up.copy_(torch.where(sign > 0, above.mean(own), chosen))
        return above.total

    return step


def stock(deltas: Sequence[Delta]) -> Ranged:
    """Return t times the mean of the deltas, t = N c / (1 + (N - 1) c), c their mean cosine.

    Model Stock (arXiv 2403.19522, equation 5), the cosine between all pairs, 0 of what is zero.
    Below 0 it counts as 0, where the formula leads away from the models. Weights count nothing.
    """
    count = len(deltas)
    products = _products(deltas)
    norms = products.diagonal().sqrt()
    cosines = products / norms.outer(norms)
    between = torch.where(norms.outer(norms) > 0, cosines, 0).fill_diagonal_(0)
    cosine = min(max(float(between.sum()) / (count * (count - 1)), 0.0), 1.0)
    total = add_up([replace(delta, weight=1.0) for delta in deltas])
    share = cosine / (1 + (count - 1) * cosine)
    return lambda begin, end: total(begin, end).mul_(share)


def _products(deltas: Sequence[Delta]) -> Tensor:
    size = deltas[0].size
    if all(delta.in_ranges for delta in deltas):
        return products_of_ranges([delta.open() for delta in deltas], size)
    return products_of_wholes([delta.open for delta in deltas], size)


def _ties(deltas: Sequence[Delta], combination: Combination) -> Ranged:
    return elect([trim(delta, combination.density) for delta in deltas])


def _drop_each(deltas: Sequence[Delta], combination: Combination) -> list[Delta]:
    return [drop_at_random(delta, combination) for delta in deltas]


STEP_RULES: Mapping[str, StepRule] = {
    "task-arithmetic": lambda deltas, _: add_up(deltas),
    "ties": _ties,
    "dare": lambda deltas, combination: add_up(_drop_each(deltas, combination)),
    # dropping at random takes the place of trimming
    "dare-ties": lambda deltas, combination: elect(_drop_each(deltas, combination)),
    STOCK: lambda deltas, _: stock(deltas),
}


class _Agreeing:
    """The values of one sign: their sum, and the weights of those that are not 0, by place."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.total, self._weights = (torch.zeros(size, dtype=dtype) for _ in range(2))

    def add(self, own: slice, values: Tensor, weight: float) -> None:
        self.total[own].add_(values)
        self._weights[own].add_((values != 0).to(values.dtype), alpha=weight)

    def mean(self, own: slice) -> Tensor:
        """Return the mean by weight; where there are no values it is no number."""
        return self.total[own] / self._weights[own]


class _UniformNumbers:
    """The numbers of one seed, uniform in [0, 1): the same however they are cut into ranges."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._restart()

    def take(self, begin: int, count: int) -> Tensor:
        """Return some numbers from the one at begin on; one before the last starts all again."""
        if begin < self._place:
            self._restart()
        while self._place < begin:
            self._draw(min(begin - self._place, IN_CACHE))
        return self._draw(count)

    def _restart(self) -> None:
        self._generator, self._place = torch.Generator().manual_seed(self._seed), 0

    def _draw(self, count: int) -> Tensor:
        self._place += count
        # float64: in float32 a density of 1 - 1e-8 would be 1
        return torch.rand(count, generator=self._generator, dtype=torch.float64)


def _changed(delta: Delta, change: Callable[[Tensor, int], Tensor]) -> Delta:
    """Return a delta with its values changed as they are read: given them, and their first place.

    They may be written to.
    """

    def opened() -> Ranged:
        read = delta.open()
        return lambda begin, end: change(read(begin, end), begin)

    return replace(delta, open=opened)


def _parts(begin: int, end: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield a range in parts: where they lie in it, and where in all."""
    for first in range(begin, end, IN_CACHE):
        last = min(first + IN_CACHE, end)
        yield slice(first - begin, last - begin), (first, last)

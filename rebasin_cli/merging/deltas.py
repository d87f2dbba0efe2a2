"""What models have learnt since their base, tensor by tensor, and how that is put together.

All in the dtype of the differences, one of them in memory at a time. arXiv numbers are those of the
papers whose formulas these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from rebasin_cli.merging.combination import STOCK, Combination


@dataclass(frozen=True)
class Delta:
    """The difference of one tensor of a model to that of the base.

    model: its number. values: real; whoever is given a delta may write to them.
    """

    name: str
    model: int
    weight: float
    values: Tensor


# Returns what is to be added to the base, before it is scaled. There is at least one delta.
StepRule = Callable[[Iterable[Delta], Combination], Tensor]


def add_up(deltas: Iterable[Delta]) -> Tensor:
    """Return sum(w d): task arithmetic (arXiv 2212.04089)."""
    total: Tensor | None = None
    for delta in deltas:
        term = delta.values.mul_(delta.weight)
        total = term if total is None else total.add_(term)
    return _given(total)


def trim(delta: Delta, density: float) -> Delta:
    """Return a delta with its largest values alone: round(density n) of n, at least one.

    Those as large as the least of these stay too, so that the order of units decides nothing.
    TIES (arXiv 2306.01708), where the values of all tensors are compared with one another; here as
    in other tools those of one tensor, which need not all be read.
    """
    sizes = delta.values.abs().flatten()
    if not sizes.numel():
        return delta
    kept = max(1, round(density * sizes.numel()))
    least = torch.kthvalue(sizes, sizes.numel() - kept + 1).values
    small = delta.values.abs() < least
    return replace(delta, values=delta.values.masked_fill_(small, 0))


def drop_at_random(delta: Delta, combination: Combination) -> Delta:
    """Return a delta of which each value is 0 or, as often as the density says, divided by it.

    DARE (arXiv 2311.03099). What is dropped depends on the seed, the name of the tensor and the
    number of the model alone, and not on the file that it is in.
    """
    text = f"{combination.seed} {delta.model} {delta.name}".encode("utf-8", "surrogatepass")
    generator = torch.Generator().manual_seed(int.from_bytes(sha256(text).digest()[:8], "big") >> 1)
    # float64: in float32 a density of 1 - 1e-8 would be 1
    drawn = torch.rand(delta.values.shape, generator=generator, dtype=torch.float64)
    kept = delta.values.div_(combination.density)
    return replace(delta, values=kept.masked_fill_(drawn >= combination.density, 0))


def elect(deltas: Iterable[Delta]) -> Tensor:
    """Return at each place the mean of those deltas that have the sign of their sum, by weight.

    sum(w d) / sum(|w|) over them, 0 where the sum is 0: the election and the mean of TIES. A
    negative weight turns a delta round.
    """
    above, below = _Agreeing(), _Agreeing()
    for delta in deltas:
        values = delta.values.mul_(delta.weight)
        above.add(values.clamp(min=0), abs(delta.weight))
        below.add(values.clamp(max=0), abs(delta.weight))
    up, down = _given(above.total), _given(below.total)
    sign = torch.sign(up + down)
    none = torch.zeros_like(up)
    return torch.where(sign > 0, above.mean(), torch.where(sign < 0, below.mean(), none))


def stock(deltas: Iterable[Delta]) -> Tensor:
    """Return t times the mean of the deltas, t = N c / (1 + (N - 1) c), c their mean cosine.

    Model Stock (arXiv 2403.19522, equation 5), the cosine between all pairs. Below 0 it counts as
    0, where the formula leads away from the models. Weights count nothing.
    """
    total: Tensor | None = None
    directions: Tensor | None = None
    count = known = 0
    for delta in deltas:
        length = float(delta.values.double().norm())
        unit = delta.values / length if length else delta.values
        directions = unit if directions is None else directions.add_(unit)
        total = delta.values.clone() if total is None else total.add_(delta.values)
        count, known = count + 1, known + bool(length)
    pairs = count * (count - 1)
    # |sum of unit vectors|^2 is their number and twice the cosine of every pair
    cosine = (float(_given(directions).double().square().sum()) - known) / pairs
    cosine = min(max(cosine, 0.0), 1.0)
    return _given(total).mul_(cosine / (1 + (count - 1) * cosine))


def _ties(deltas: Iterable[Delta], combination: Combination) -> Tensor:
    return elect(trim(delta, combination.density) for delta in deltas)


def _dropped(deltas: Iterable[Delta], combination: Combination) -> Iterator[Delta]:
    return (drop_at_random(delta, combination) for delta in deltas)


STEP_RULES: Mapping[str, StepRule] = {
    "task-arithmetic": lambda deltas, _: add_up(deltas),
    "ties": _ties,
    "dare": lambda deltas, combination: add_up(_dropped(deltas, combination)),
    # dropping at random takes the place of trimming
    "dare-ties": lambda deltas, combination: elect(_dropped(deltas, combination)),
    STOCK: lambda deltas, _: stock(deltas),
}


class _Agreeing:
    """The values of one sign: their sum, and the weights of those that are not 0, by place."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self._weights: Tensor | None = None

    def add(self, values: Tensor, weight: float) -> None:
        shares = (values != 0).to(values.dtype).mul_(weight)
        self.total = values if self.total is None else self.total.add_(values)
        self._weights = shares if self._weights is None else self._weights.add_(shares)

    def mean(self) -> Tensor:
        """Return the mean by weight; where there are no values it is no number."""
        return _given(self.total) / _given(self._weights)


def _given(total: Tensor | None) -> Tensor:
    if total is None:
        raise ValueError("no differences to combine")
    return total

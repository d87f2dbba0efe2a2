"""What it costs that two models differ.

The squared distance is what most methods minimise: but for a constant, its cost of one unit
against another is an inner product. In the absolute distance a few wild weights cannot outvote
all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.products import inner, pieces


@dataclass(frozen=True)
class Loss:
    """A distance between arrays, summed over their elements.

    apart: of two arrays, as a differentiable scalar. costs: of every row of one matrix (n, m)
    from every row of another, (n, n), up to what no permutation changes. worth: of two arrays,
    in float64, up to the same; larger is better.
    """

    apart: Callable[[Tensor, Tensor], Tensor]
    costs: Callable[[Tensor, Tensor], Tensor]
    worth: Callable[[Tensor, Tensor], float]


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum()


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    return -2 * rows @ columns.T


def _absolutes(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum()


def _city_blocks(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.cdist(rows, columns, p=1)


def _nearness(a: Tensor, b: Tensor) -> float:
    return -sum(float((x - y).abs().sum()) for x, y in pieces(a, b))


LOSSES: Mapping[str, Loss] = {
    "l2": Loss(_squares, _products, inner),
    "l1": Loss(_absolutes, _city_blocks, _nearness),
}

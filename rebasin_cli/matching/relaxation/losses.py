"""What it costs that two models differ.

The squared distance is what most methods minimise: but for a constant, its cost of one unit
against another is an inner product. In the absolute distance a few wild weights cannot outvote
all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import as_rows, chain_orders, reorder
from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.inner_products import inner, wide_pieces
from rebasin_cli.matching.relaxation.polytope import Polytope
from rebasin_cli.matching.relaxation.soft_fields import GroupNames, Vertex
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.tensors.numbers import on_host


@dataclass(frozen=True)
class Loss:
    """A distance between arrays, summed over their elements.

    apart: of two arrays, as a differentiable scalar. costs: of every row of one matrix (n, m)
    from every row of another, (n, n), up to what no permutation changes. worth: of two arrays,
    in float64, up to the same; larger is better.
    A sum over elements is a sum over units, so one group's best order under any such loss, all
    else in place, is an assignment.
    """

    apart: Callable[[Tensor, Tensor], Tensor]
    costs: Callable[[Tensor, Tensor], Tensor]
    worth: Callable[[Tensor, Tensor], float]


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum()


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    # |a - b|^2 less |a|^2 and |b|^2, which every order sums over all rows.
    return -2 * rows @ columns.T


def _absolutes(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum()


def _city_blocks(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.cdist(rows, columns, p=1)


def _nearness(a: Tensor, b: Tensor) -> float:
    return -sum(on_host((x - y).abs().sum() for x, y in wide_pieces(a, b)))


LOSSES: Mapping[str, Loss] = {
    "l2": Loss(_squares, _products, inner),
    "l1": Loss(_absolutes, _city_blocks, _nearness),
}


def at_vertex(polytope: Polytope, loss: Loss, vertex: Vertex) -> float:
    """Return the loss of the other model, its units reordered."""
    return sum(
        on_host(
            loss.apart(
                field.arrays[0], reorder(field.arrays[1], chain_orders(field.chains, vertex))
            )
            for field in polytope.fields
        )
    )


def lower_loss(
    polytope: Polytope, loss: Loss, start: Permutations, visits: int
) -> tuple[dict[str, Permutation], bool]:
    """Lower the loss family by family until none can; return also whether that was reached.

    Where a family meets itself its costs are linearised: a move is accepted on the true loss.
    visits: of each family, at most.
    """
    now = dict(start)
    value = at_vertex(polytope, loss, polytope.orders(now))
    for _ in range(visits):
        before = value
        for family in polytope.families:
            trial = {**now, **_improved(polytope, loss, family, now)}
            reached = at_vertex(polytope, loss, polytope.orders(trial))
            if reached < value:
                now, value = trial, reached
        if value == before:
            return now, True
    return now, False


def _improved(
    polytope: Polytope, loss: Loss, family: GroupFamily, now: Permutations
) -> dict[str, Permutation]:
    """Return the best order of one family with all others in place.

    Costs are made from the arrays at every visit: an absolute distance is no product, of which
    only what moved would have to be computed again.
    """
    values, orders = dict[GroupNames, Tensor](), polytope.orders(now)
    for field in polytope.fields:
        for k, chain in enumerate(field.chains):
            if chain.groups[0] == family.root:
                rest = chain_orders(field.chains, orders, position=k)
                there = as_rows(reorder(field.arrays[1], rest), k)
                costs = loss.costs(as_rows(field.arrays[0], k), there)
                values[chain.groups] = values.get(chain.groups, 0) - costs
    index = {name: p.index for name, p in now.items()}
    return replace(polytope, families=[family]).vertex(values, index)

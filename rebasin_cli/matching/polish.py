"""Descent by coordinates under any loss, for arrays that fit into memory.

The descent of `descent` knows inner products only, and is the better one where they do.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rebasin_cli.matching.families import Family
from rebasin_cli.matching.fields import Groups, Vertex
from rebasin_cli.matching.frank_wolfe import Polytope
from rebasin_cli.matching.losses import Loss
from rebasin_cli.matching.sites import around, front, reordered
from rebasin_cli.permutation import Permutation, Permutations


def at_vertex(polytope: Polytope, loss: Loss, vertex: Vertex) -> float:
    """Return the loss of the other model, its units reordered."""
    return sum(
        float(loss.apart(field.arrays[0], reordered(field.arrays[1], around(field.chains, vertex))))
        for field in polytope.fields
    )


def settle(
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
    polytope: Polytope, loss: Loss, family: Family, now: Permutations
) -> dict[str, Permutation]:
    """Return the best order of one family with all others in place."""
    values, orders = dict[Groups, Tensor](), polytope.orders(now)
    for field in polytope.fields:
        for k, chain in enumerate(field.chains):
            if chain.groups[0] == family.root:
                rest = around(field.chains, orders, k)
                there = front(reordered(field.arrays[1], rest), k)
                costs = loss.costs(front(field.arrays[0], k), there)
                values[chain.groups] = values.get(chain.groups, 0) - costs
    index = {name: p.index for name, p in now.items()}
    return replace(polytope, families=[family]).vertex(values, index)

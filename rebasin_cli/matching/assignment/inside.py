"""What giving one unit another's place is worth by what is inside them, for all pairs at once.

V[i, j] = sum over groups g inside of max over orders q of sum over a of S_g[i, a, j, q[a]]: the
inner half of what `joint` solves, in its usual form (heads, and plain groups of dims inside them).
The n^2 problems of a group have one size, so that one call takes them all: one by one, coming to
an assignment takes longer than most of them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.matching.problem.similarity import Similarity


@dataclass(frozen=True)
class PairOrders:
    """The best orders inside every pair of units: reference unit i, other unit j.

    values: (n, n) float64. index: by group inside, (n, n, k).
    """

    values: Tensor
    index: Mapping[str, Tensor]

    def chosen(self, order: Tensor) -> dict[str, Tensor]:
        """Return the indices (n, k) inside each unit and its partner."""
        return {g: index[torch.arange(len(order)), order] for g, index in self.index.items()}


def one_level(votes: Sequence[object]) -> list[Similarity]:
    """Return the votes if all are similarities of units and of groups with nothing inside them.

    Else nothing: what is deeper, or meets another group, is solved pair by pair in `joint`.
    """
    found = [vote for vote in votes if isinstance(vote, Similarity) and len(vote.groups) == 2]
    return found if len(found) == len(votes) else []


def solve_inside(
    name: str, similarities: Sequence[Similarity], current: Mapping[str, Tensor]
) -> PairOrders:
    """Solve all groups inside the units of a group, one assignment for each pair of units.

    current: the indices in place, which are kept where they are worth as much.
    All that votes for one group is added up first: it has one order inside each pair.
    """
    size = len(similarities[0].values)
    total, index = torch.zeros(size, size, dtype=torch.float64), dict[str, Tensor]()
    for group in dict.fromkeys(similarity.groups[1] for similarity in similarities):
        values = torch.stack([s.values for s in similarities if s.groups[1] == group]).sum(0)
        inner = values.shape[1]
        # (n, k, n, k) with the reference first, to one (k, k) problem for each pair: row n i + j.
        problems = values.transpose(1, 2).reshape(size * size, inner, inner)
        found = assign_all(problems, in_place(name, group, current))
        # Sums over many values and over several groups: in float64, whatever those are in.
        worth = problems.cpu().double().gather(2, found[:, :, None]).sum((1, 2))
        total += worth.reshape(size, size)
        index[group] = found.reshape(size, size, inner)
    return PairOrders(total, index)


def in_place(name: str, group: str, current: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Return the index in place inside each unit and its present partner, by number of pair.

    The other n^2 - n pairs are not in place, and have none to keep.
    """
    if name not in current or group not in current:
        return {}
    size = len(current[name])
    pairs = enumerate(current[name].tolist())
    return {size * i + j: current[group][i] for i, j in pairs}


def among_pairs(pairs: Tensor, found: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return what is found of some of the pairs, by the number among them."""
    return {k: found[pair] for k, pair in enumerate(pairs.tolist()) if pair in found}

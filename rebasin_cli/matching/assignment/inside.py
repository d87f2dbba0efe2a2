"""What giving one unit another's place is worth by what is inside them, for all pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.matching.problem.similarity import Similarity


@dataclass(frozen=True)
class Inside:
    """The best orders inside every pair of units: reference unit i, other unit j.

    values: (n, n) float64. index: by group inside, (n, n, k).
    """

    values: Tensor
    index: Mapping[str, Tensor]

    def chosen(self, order: Tensor) -> dict[str, Tensor]:
        """Return the indices (n, k) inside each unit and its partner."""
        return {g: index[torch.arange(len(order)), order] for g, index in self.index.items()}


def plain(votes: Sequence[object]) -> list[Similarity]:
    """Return the votes if all are similarities of units and of groups with nothing inside them."""
    found = [vote for vote in votes if isinstance(vote, Similarity) and len(vote.groups) == 2]
    return found if len(found) == len(votes) else []


def solve_inside(
    name: str, similarities: Sequence[Similarity], current: Mapping[str, Tensor]
) -> Inside:
    """Solve all groups inside the units of a group, one assignment for each pair of units.

    current: the indices in place, which are kept where they are worth as much.
    """
    size = len(similarities[0].values)
    total, index = torch.zeros(size, size, dtype=torch.float64), dict[str, Tensor]()
    for group in dict.fromkeys(similarity.groups[1] for similarity in similarities):
        values = torch.stack([s.values for s in similarities if s.groups[1] == group]).sum(0)
        inner = values.shape[1]
        problems = values.transpose(1, 2).reshape(size * size, inner, inner)
        found = assign_all(problems, _in_place(name, group, current))
        worth = problems.cpu().double().gather(2, found[:, :, None]).sum((1, 2))
        total += worth.reshape(size, size)
        index[group] = found.reshape(size, size, inner)
    return Inside(total, index)


def _in_place(name: str, group: str, current: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Return the index in place inside each unit and its present partner, by number of pair."""
    if name not in current or group not in current:
        return {}
    size = len(current[name])
    pairs = enumerate(current[name].tolist())
    return {size * i + j: current[group][i] for i, j in pairs}

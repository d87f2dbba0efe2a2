"""ZipIt: units that say the same are merged into one, across models and inside a model.

Source: Stoica et al. 2023, "ZipIt! Merging Models from Different Tasks without Training". Two
departures. Units that never vary count as equal to one another, not as unrelated: left over, they
would cost live units their place. And where the limits leave no pair, they no longer hold.

Of N models' n units each, N n columns are merged two by two down to n: not a permutation, since
units of one model may be merged and those of another be left alone. No model's function is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.commands.merge.linear_maps.linear_map import LinearMap

ALPHA = 0.3  # what a merged unit's correlations are multiplied by, so that it is merged less again
BETA = 0.125  # share of a model's merges that may lie inside it
_SHUT = float("-inf")


@dataclass(frozen=True)
class Zip:
    """How the units of N models, stacked, become n; float64.

    merge: (n, N n), the mean of the units merged into each. unmerge: (N n, n), a copy of it for
    each of them.
    """

    merge: Tensor
    unmerge: Tensor

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        """The map of each model, such that the mean of the mapped models is the merged one."""
        size = len(self.merge)
        count = self.merge.shape[1] // size
        pairs = zip(self.merge.chunk(count, 1), self.unmerge.chunk(count), strict=True)
        return tuple(LinearMap(count * merge, unmerge) for merge, unmerge in pairs)


def correlations(covariance: Tensor) -> Tensor:
    """Return correlations (m, m); 0 where one of two units never varies, 1 where neither does."""
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.outer(deviation, deviation)
    still = deviation == 0
    found = torch.where(scale > 0, covariance / scale, 0.0)
    return torch.where(torch.outer(still, still), 1.0, found)


def zip_units(correlation: Tensor, models: int, *, alpha: float = ALPHA, beta: float = BETA) -> Zip:
    """Return which units to merge, greedily: the most correlated pair first, down to n.

    correlation: (N n, N n), the units of the N models one after another. A merged unit has the
    smaller of the two correlations, times alpha; with alpha 0 a unit is never merged with another
    of a model that it holds units of already.
    """
    total = len(correlation)
    size = total // models
    columns = _Columns(correlation, models, alpha)
    budget = [int((total - size) / models * beta)] * models
    for model in range(models):
        if not budget[model]:
            columns.shut(model)
    for _ in range(total - size):
        kept, gone = columns.best_pair()
        columns.merge(kept, gone)
        if kept // size == gone // size:
            budget[kept // size] -= 1
            if budget[kept // size] == 0:
                columns.shut(kept // size)
    unmerge = columns.members[:, columns.alive].double()
    return Zip((unmerge / unmerge.sum(0)).T.contiguous(), unmerge)


class _Columns:
    """The units that are left, and how well each goes with each; a merged one keeps one index.

    best, partner: of each row of `values` where it is open, so that a merge costs a few rows and
    not the whole table. A row may miss what another has become since; the row of that one knows.
    """

    def __init__(self, correlation: Tensor, models: int, alpha: float) -> None:
        total = len(correlation)
        self.values, self.alpha = correlation.to(torch.float64, copy=True), alpha
        self.size = total // models
        self.open = ~torch.eye(total, dtype=torch.bool)
        self.alive = torch.ones(total, dtype=torch.bool)
        self.members = torch.eye(total, dtype=torch.bool)
        self.best, self.partner = self.values.new_empty(total), torch.zeros(total).long()
        self._look(torch.arange(total))

    def best_pair(self) -> tuple[int, int]:
        """Return the open pair of the largest value, the one that is kept first."""
        if self.best.max() == _SHUT:
            self.open = torch.outer(self.alive, self.alive).fill_diagonal_(False)
            self._look(torch.arange(len(self.values)))
        row = int(self.best.argmax())
        kept, gone = sorted((row, int(self.partner[row])))
        return kept, gone

    def shut(self, model: int) -> None:
        """Allow no more merges inside a model."""
        own = slice(model * self.size, (model + 1) * self.size)
        self.open[own, own] = False
        self._look(torch.arange(len(self.values))[own])

    def merge(self, kept: int, gone: int) -> None:
        # The smaller of two correlations: what is merged next has to go with all that it holds.
        row = torch.minimum(self.values[kept], self.values[gone])
        self.values[kept] = self.values[:, kept] = row * self.alpha if self.alpha > 0 else row
        self.members[:, kept] |= self.members[:, gone]
        allowed = self.open[kept] & self.open[gone]
        if self.alpha <= 0:
            allowed &= ~self._akin(kept)
        self.open[kept] = self.open[:, kept] = allowed
        self.open[gone] = self.open[:, gone] = False
        self.alive[gone] = False
        stale = (self.partner == kept) | (self.partner == gone)
        stale[[kept, gone]] = True
        self._look(stale.nonzero().flatten())

    def _akin(self, column: int) -> Tensor:
        """Return which columns hold units of a model that this one holds units of too."""
        total = len(self.members)
        models = self.members.reshape(total // self.size, self.size, total).any(1)
        return (models & models[:, [column]]).any(0)

    def _look(self, rows: Tensor) -> None:
        seen = torch.where(self.open[rows], self.values[rows], _SHUT)
        self.best[rows], self.partner[rows] = seen.max(1)

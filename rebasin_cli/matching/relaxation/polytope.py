"""The polytope of soft permutations: which families can be permuted softly, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.group_families import GroupFamily, sites_of
from rebasin_cli.matching.problem.similarity import Similarity
from rebasin_cli.matching.problem.similarity_cache import is_dense
from rebasin_cli.matching.relaxation.soft_fields import (
    Field,
    GroupNames,
    Vertex,
    mean_over_orders,
    soft_fields,
)
from rebasin_cli.matching.relaxation.stacks import Matrices
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.spec.binding.bound import BoundGroup

TINY = 64  # units of a group whose assignment takes less time than it takes to come to it


@dataclass(frozen=True)
class Polytope:
    """The soft permutations of some models under families whose chains are nests.

    fields: arrays of all models; the first is the reference and stays.
    A chain of heads and dims has one (N, N) matrix, N the number of all dims, whose vertices are
    the orders that keep heads together, fewer than N!. A family with several chains (head; head
    and qk) has a matrix for each, and a vertex takes them all to orders that agree.
    """

    fields: Sequence[Field]
    families: Sequence[GroupFamily]
    groups: Mapping[str, BoundGroup]
    pool: Executor

    @cached_property
    def chains(self) -> dict[GroupNames, Chain]:
        """Every chain of the families, by its groups."""
        return {chain.groups: chain for family in self.families for chain in family.chains()}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The groups that stay."""
        return frozenset(name for name, group in self.groups.items() if group.fixed)

    def matrices(self, start: Vertex | None) -> Matrices:
        """Return the soft permutations at a start; None: in the middle of all orders.

        The middle is 1 / n everywhere. There a neighbour shows nothing but the mean of its units,
        a share of rank 1, so that at first what meets fixed axes leads.
        """
        like = self.fields[0].arrays[0]
        found = Matrices(self.chains, like)
        for groups, chain in self.chains.items():
            rows = torch.eye(chain.size, dtype=like.dtype, device=like.device)
            if start is None:
                rows = mean_over_orders(rows, 0, chain, self.fixed)
            else:
                rows = rows.index_select(0, start[groups])
            found.by_chain[groups].copy_(rows)
        return found

    def vertex(
        self, values: Mapping[GroupNames, Tensor], now: Mapping[str, Tensor]
    ) -> dict[str, Permutation]:
        """Return the permutations worth most under a linear function of the chains.

        values: (N, N) of each chain; an order p of it is worth the sum over i of values[i, p[i]].
        now: indices to keep where they are worth as much.
        Exact: a family of chains that are nests is solved jointly (see `joint`).
        """
        found = self.indices(values, now)
        return {name: Permutation(i, self.groups[name].parents) for name, i in found.items()}

    def indices(
        self, values: Mapping[GroupNames, Tensor], now: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the indices of the permutations that `vertex` returns."""

        def solved(batch: Sequence[GroupFamily]) -> Mapping[str, Tensor]:
            return self._together(batch, values, now) if len(batch) > 1 else alone(batch[0])

        def alone(family: GroupFamily) -> Mapping[str, Tensor]:
            votes = [
                Similarity(c.groups, values[c.groups].reshape(*c.shape, *c.shape))
                for c in family.chains()
            ]
            current = {name: now[name] for name in family.names if name in now}
            return solve_family(family.root, votes, Level(self.groups, current)).index

        found = self.pool.map(solved, self._batches)
        return {name: index for part in found for name, index in part.items()}

    def _together(
        self,
        batch: Sequence[GroupFamily],
        values: Mapping[GroupNames, Tensor],
        now: Mapping[str, Tensor],
    ) -> Mapping[str, Tensor]:
        """Return the indices of families of one group each, all of one size."""
        roots = [family.root for family in batch]
        current = {k: now[root] for k, root in enumerate(roots) if root in now}
        found = assign_all(torch.stack([values[root,] for root in roots]), current)
        return dict(zip(roots, found.unbind(), strict=True))

    @cached_property
    def _batches(self) -> list[list[GroupFamily]]:
        """The families, those of one small group together with others of its size."""
        found: dict[object, list[GroupFamily]] = {}
        for family in self.families:
            root, *inside = family.members
            tiny = not inside and root.size <= TINY
            found.setdefault(root.size if tiny else root.name, []).append(family)
        return list(found.values())

    def orders(self, permutations: Mapping[str, Permutation]) -> dict[GroupNames, Tensor]:
        """Return the order of every chain under some permutations."""
        device = self.fields[0].arrays[0].device
        return {g: chain.order(permutations).to(device) for g, chain in self.chains.items()}

    def spread(self, index: Mapping[str, Tensor]) -> dict[GroupNames, Tensor]:
        """Return the order of every chain under the permutations of some indices."""
        device = self.fields[0].arrays[0].device
        nested = {name for groups in self.chains if len(groups) > 1 for name in groups}
        within = {name: Permutation(index[name], self.groups[name].parents) for name in nested}
        return {
            g: (index[g[0]] if len(g) == 1 else chain.order(within)).to(device)
            for g, chain in self.chains.items()
        }


MIDDLE = "barycenter"  # the start in the middle of all permutations


# Copies of a model's tensors: as it is, and with each set of two chains permuted; and what these
# are mixed from in a step, of one model at a time. Measured: 8 to 12 of one, 13 to 15 of two.
COPIES, MIXED = 6, 3


WORDS = 4  # of a chain's soft permutation: itself, the slope, its parts that stay, and a vertex


def polytope(
    models: Sequence[DeviceTensors],
    families: Mapping[str, GroupFamily],
    groups: Mapping[str, BoundGroup],
    meanwhile: Sequence[Permutations],
    pool: Executor,
) -> Polytope:
    """Return the soft permutations of all models but the first.

    meanwhile: of each model; they hold for the families that are not relaxed, because they are
    too large or their groups too entangled.
    """
    relaxed = {root: family for root, family in families.items() if is_dense(family, groups)}
    sites = sites_of(families)
    chains = {chain.groups: chain for site in sites for chain in site.chains}
    still = [
        {key: chain.order(permutations) for key, chain in chains.items() if key[0] not in relaxed}
        for permutations in meanwhile
    ]
    arrays = soft_fields(models, sites, frozenset(relaxed), still)
    return Polytope(arrays, list(relaxed.values()), groups, pool)


def walk_words(families: Mapping[str, GroupFamily], models: int) -> int:
    """Return how many numbers a walk of some models beside a reference holds."""
    soft = sum(chain.size**2 for f in families.values() for chain in f.chains())
    arrays = sum(site.numel for site in sites_of(families))
    return (1 + MIXED) * arrays + models * (COPIES * arrays + WORDS * soft)

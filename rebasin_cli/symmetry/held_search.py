"""The search for maps with both models in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Site
from rebasin_cli.matching.problem.group_families import GroupFamily, sites_of
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.class_solvers import SOLVERS
from rebasin_cli.symmetry.family_solution import LinearTerm
from rebasin_cli.symmetry.map_sweeps import MapMatching, MapSearch
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap, carry
from rebasin_cli.symmetry.voting_blocks import (
    TINY,
    Place,
    key_of,
    load_voting,
    place_of,
    tensors_at,
    terms_of,
    weigh,
)
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.numbers import on_host


@dataclass
class HeldSearch(MapSearch):
    """A search that moves the other model in place, by one step after the other.

    Tensors are all of one dtype, and on the device of the maps. moments: of streams, by group: what
    the reference's units do with those of the other model, (d, d).
    """

    reference: Mapping[str, Tensor]
    other: dict[str, Tensor]
    moments: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    weights: Mapping[Place, float] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = self._blocks()
        lengths = [on_host(pair[k].norm() for pair in blocks.values()) for k in (0, 1)]
        self.weights = weigh(dict(zip(blocks, zip(*lengths, strict=True), strict=True)))

    def run(self, progress: Progress = silent) -> MapMatching:
        if not self.moments:
            return super().run(progress)
        before = self.cosine()
        self._by_moments()
        return MapMatching(self.maps, Change(before, self.cosine()), 2)

    def _by_moments(self) -> None:
        """Turn streams by what they do, put the rest by weights; then both once more, hybrid.

        G and the similarities of the weights M each divided by its nuclear norm, the most that it
        can be worth: Q = polar(G / |G| + M / |M|). Further rounds change the barrier by .01.
        """
        moments = self.moments
        for alone in (True, False):
            for root in self.ordered:
                if root in moments:
                    self._turn(root, moments[root], alone=alone)
            for root in self.ordered:
                if root not in moments:
                    self.visit(self.families[root])

    def _turn(self, root: str, moments: Tensor, *, alone: bool) -> None:
        """Turn a stream by its moments, alone or with what weights say. moments: of B unmoved."""
        here, family = moments @ self.maps.linear[root].matrix.T, self.families[root]
        total = here / torch.linalg.svdvals(here).sum()
        if not alone and family.sites:
            terms = list(self._terms(family, anchored=False))
            weights = torch.stack([t.reference @ t.other.T for t in terms]).sum(0)
            total = total + weights / torch.linalg.svdvals(weights).sum()
        matrix = SOLVERS[self.classes[root]](total[None])[0]
        self._move(family, GroupMaps({}, {root: OrthogonalMap(matrix)}))

    def objective(self) -> float:
        blocks = self._blocks()
        inner = on_host((a * b).sum() for a, b in blocks.values())
        return sum(self.weights[place] * one for place, one in zip(blocks, inner, strict=True))

    def cosine(self) -> float:
        pairs = list(self._blocks().values())
        inner = sum(on_host((a * b).sum() for a, b in pairs))
        squares = (sum(on_host(each[k].square().sum() for each in pairs)) for k in (0, 1))
        return inner / max(prod(squares) ** 0.5, TINY)

    def _blocks(self) -> dict[Place, tuple[Tensor, Tensor]]:
        """Return the blocks that vote for a family, each once, as the models are now."""
        return {place_of(site): self._views(site) for site in sites_of(self.families)}

    def _views(self, site: Site) -> tuple[Tensor, Tensor]:
        key = key_of(site.tensor)
        return site.block.view(self.reference[key]), site.block.view(self.other[key])

    def visit(self, family: GroupFamily, *, anchored: bool = False) -> None:
        terms = list(self._terms(family, anchored=anchored))
        if not terms:
            return
        step = self.solver.solve(family.root, terms)
        if family.meets_itself:
            self._try(family, step)
        else:
            self._move(family, step)

    def _try(self, family: GroupFamily, step: GroupMaps) -> None:
        """Move the other model where that raises the objective, which is not linear in the family.

        A weight that reads and writes one stream, Q W Q', is quadratic in Q: the best map of its
        linearisation may be worth less than where it was made.
        """
        before = self.objective(), dict(self.other), self.maps
        self._move(family, step)
        if self.objective() <= before[0]:
            _, self.other, self.maps = before

    def _terms(self, family: GroupFamily, *, anchored: bool) -> Iterator[LinearTerm]:
        for site in family.sites:
            if not (anchored and len(site.chains) > 1):
                weight = self.weights[place_of(site)]
                for term in terms_of(site, family, self.bound.groups, self._views(site)):
                    yield replace(term, reference=term.reference * weight)

    def _move(self, family: GroupFamily, step: GroupMaps) -> None:
        for tensor in tensors_at(family.sites):
            values = self.other[key_of(tensor)]
            self.other[key_of(tensor)] = carry(values, tensor, step, dtype=values.dtype)
        self.maps = self.maps.then(step)


def voting_tensors(
    bound: BoundSpec,
    model: TensorSource,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Return the tensors of a model that vote, by first name. Raises NotFiniteError."""
    votes = [tensor for tensor in bound.tensors if tensor.votes and tensor.groups]
    return {key_of(t): load_voting(t, model, dtype=dtype, device=device) for t in votes}

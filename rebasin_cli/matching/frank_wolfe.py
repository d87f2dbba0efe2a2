"""Frank-Wolfe: all permutations of all models at once, over the polytope of soft permutations.

Source: Crisostomi et al. 2024, C2M3 (arXiv 2405.17897), section 3. Deviations: (1) the step is
exact, since the objective on a segment is a polynomial; (2) the objective is a running sum over
models, so that its cost grows with their number and not with that of the pairs; (3) the
reference stays in place, which takes away the freedom to reorder all models alike; (4) no model
is multiplied by a soft permutation, see `soft`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyadd
from numpy.typing import NDArray
from torch import Tensor

from rebasin_cli.matching.families import Family
from rebasin_cli.matching.joint import Level, solve
from rebasin_cli.matching.similarity import Similarity
from rebasin_cli.matching.sites import Chain, front
from rebasin_cli.matching.soft import Field, Groups, Mixture, Vertex, middle, softened
from rebasin_cli.permutation import Permutation, identity
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec import BoundGroup, drawn

STEPS = 200
RISE = 1e-6  # of the value: a step that gains less is one without progress
PATIENCE = 3  # steps without progress before it stops

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Relaxed:
    """What was found: a soft permutation (N, N) of each chain for each model that may move.

    values: of the objective, at the start and after each step; it never falls.
    """

    soft: tuple[Mapping[Groups, Tensor], ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Polytope:
    """The soft permutations of some models under families whose chains are nests.

    fields: arrays of all models; the first is the reference and stays.
    """

    fields: Sequence[Field]
    families: Sequence[Family]
    groups: Mapping[str, BoundGroup]
    pool: Executor

    @cached_property
    def chains(self) -> dict[Groups, Chain]:
        """Every chain of the families, by its groups."""
        return {chain.groups: chain for family in self.families for chain in family.chains()}

    @property
    def fixed(self) -> frozenset[str]:
        """The groups that stay."""
        return frozenset(name for name, group in self.groups.items() if group.fixed)

    def matrix(self, chain: Chain, start: Vertex | None) -> Tensor:
        """Return a chain's soft permutation at a start; None: in the middle of all orders."""
        like = self.fields[0].arrays[0]
        rows = torch.eye(chain.size, dtype=like.dtype, device=like.device)
        if start is None:
            return middle(rows, 0, chain, self.fixed).contiguous()
        return rows.index_select(0, start[chain.groups])

    def vertex(
        self, values: Mapping[Groups, Tensor], now: Mapping[str, Tensor]
    ) -> dict[str, Permutation]:
        """Return the permutations worth most under a linear function of the chains.

        now: indices to keep where they are worth as much.
        """

        def solved(family: Family) -> Mapping[str, Tensor]:
            votes = [
                Similarity(c.groups, values[c.groups].reshape(*c.shape, *c.shape))
                for c in family.chains()
            ]
            current = {name: now[name] for name in family.names if name in now}
            return solve(family.root, votes, Level(self.groups, current)).index

        return {
            name: Permutation(index, self.groups[name].parents)
            for found in self.pool.map(solved, self.families)
            for name, index in found.items()
        }

    def orders(self, permutations: Mapping[str, Permutation]) -> dict[Groups, Tensor]:
        """Return the order of every chain under some permutations."""
        device = self.fields[0].arrays[0].device
        return {g: chain.order(permutations).to(device) for g, chain in self.chains.items()}


class Walk:
    """A walk through the polytope: every model's arrays and soft permutations, as they are now."""

    def __init__(self, polytope: Polytope, starts: Sequence[Vertex | None]) -> None:
        """starts: the orders of each model but the reference; None: the middle of all orders."""
        self._polytope = polytope
        self._models = [
            [softened(field, which + 1, start, polytope.fixed) for field in polytope.fields]
            for which, start in enumerate(starts)
        ]
        self._soft = [
            {chain.groups: polytope.matrix(chain, start) for chain in polytope.chains.values()}
            for start in starts
        ]
        # units that are worth the same (dead ones) then stay where they are
        members = [group for family in polytope.families for group in family.members]
        here = {g.name: identity(g.shape, g.parents).index for g in members}
        self._seen: list[Mapping[str, Tensor]] = [here for _ in starts]
        # alone in a field, a chain meets nothing that moves but other models
        still = [f for f in polytope.fields if len(f.chains) == 1 and len(starts) == 1]
        self._moving = [
            k for k, f in enumerate(polytope.fields) if not any(f is other for other in still)
        ]
        self._still = self._nothing()
        for field in still:
            self._still[field.chains[0].groups].addmm_(field.arrays[0], field.arrays[1].T)

    def run(self, steps: int = STEPS, progress: Progress = silent) -> Relaxed:
        """Step until the objective stops rising."""
        values, idle = list[float](), 0
        while len(values) <= steps and idle < PATIENCE:
            vertices = [self._polytope.orders(v) for v in self._vertices()]
            value, length = self._advance(vertices)
            if not values:
                values.append(value(0.0))
            values.append(value(length))
            progress("walking", len(values) - 1, steps)
            idle = idle + 1 if values[-1] - values[-2] <= RISE * abs(values[-1]) else 0
            if length == 0:
                break
        return Relaxed(tuple(self._soft), tuple(values))

    def nudge(self, generator: torch.Generator, length: float) -> None:
        """Go some way towards random permutations: another place to start from."""
        members = [group for family in self._polytope.families for group in family.members]
        vertices = [self._polytope.orders(drawn(members, generator)) for _ in self._models]
        self._advance(vertices, length)

    def rounded(self) -> list[dict[str, Permutation]]:
        """Return for each model the permutations closest to its soft ones."""
        return [self._polytope.vertex(soft, {}) for soft in self._soft]

    def _vertices(self) -> list[dict[str, Permutation]]:
        """Return for each model the vertex in whose direction the objective rises most."""
        found = []
        for which in range(len(self._models)):
            vertex = self._polytope.vertex(self._slope(which), self._seen[which])
            self._seen[which] = {name: p.index for name, p in vertex.items()}
            found.append(vertex)
        return found

    def _slope(self, which: int) -> dict[Groups, Tensor]:
        """Return the gradient of the objective by a model's soft permutations."""
        slope = {groups: values.clone() for groups, values in self._still.items()}
        for position in self._moving:
            field = self._polytope.fields[position]
            target = field.arrays[0]
            for other, model in enumerate(self._models):
                if other != which:
                    target = target + model[position].whole
            own = self._models[which][position]
            for k, chain in enumerate(field.chains):
                slope[chain.groups].addmm_(front(target, k), front(own.but(k), k).T)
        return slope

    def _nothing(self) -> dict[Groups, Tensor]:
        like, chains = self._polytope.fields[0].arrays[0], self._polytope.chains
        return {g: like.new_zeros(chain.size, chain.size) for g, chain in chains.items()}

    def _advance(
        self, vertices: Sequence[Vertex], length: float | None = None
    ) -> tuple[Polynomial, float]:
        """Go along the segment, None: to its best point; return the objective and the length."""
        segments = [
            [part.towards(vertex) for part in model]
            for model, vertex in zip(self._models, vertices, strict=True)
        ]
        total: Floats = np.zeros(1)
        for position, field in enumerate(self._polytope.fields):
            mixtures = [model[position][field.everywhere] for model in segments]
            total = polyadd(total, on_segment(field.arrays[0], mixtures))
        value = Polynomial(total)
        length = best_length(value) if length is None else length
        for model, ways in zip(self._models, segments, strict=True):
            for part, way in zip(model, ways, strict=True):
                part.step(way, length)
        for soft, vertex in zip(self._soft, vertices, strict=True):
            _mix(soft, vertex, length)
        return value, length


def on_segment(reference: Tensor, models: Sequence[Mixture]) -> Floats:
    """Return the sum over pairs of models of their inner product, as coefficients of powers.

    Equal to (|S|^2 - sum |W|^2) / 2 with S the sum of the models W: quadratic for two models
    with one in place, quartic for more, where two chains meet in a tensor.
    """
    degree = len(models[0]) - 1
    alone, together = np.zeros(degree + 1), np.zeros(2 * degree + 1)
    total: Mixture = []
    for mixture in models:
        for u, array in enumerate(mixture):
            alone[u] += _dot(reference, array)
            for v, others in enumerate(total):
                together[u + v] += _dot(others, array)
        total = [a + b for a, b in zip(total, mixture, strict=True)] if total else mixture
    return polyadd(_basis(degree) @ alone, _basis(2 * degree) @ together)


@cache
def _basis(degree: int) -> Floats:
    """Return the matrix from sum over u of (1 - t)^(k - u) t^u b[u] to powers of t; k: degree."""
    columns = [
        Polynomial([1.0, -1.0]) ** (degree - u) * Polynomial([0.0, 1.0]) ** u
        for u in range(degree + 1)
    ]
    return np.stack([np.pad(c.coef, (0, degree + 1 - len(c.coef))) for c in columns], axis=1)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def best_length(value: Polynomial) -> float:
    """Return the step in [0, 1] where the objective is highest."""
    roots = value.deriv().roots()
    inside = [float(r.real) for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    return max((0.0, 1.0, *inside), key=lambda t: (value(t), -t))


def _mix(soft: Mapping[Groups, Tensor], vertex: Vertex, length: float) -> None:
    """Move soft permutations towards a vertex, in place."""
    for groups, matrix in soft.items():
        rows = torch.arange(len(matrix), device=matrix.device)
        matrix.mul_(1 - length)
        matrix[rows, vertex[groups]] += length

"""Frank-Wolfe: all permutations of all models at once, over the polytope of soft permutations.

Source: Crisostomi et al. 2024, C2M3 (arXiv 2405.17897), section 3. Deviations: (1) the step is
exact, since the objective on a segment is a polynomial; (2) the objective is a running sum over
models, so that its cost grows with their number and not with that of the pairs; (3) the
reference stays in place, which takes away the freedom to reorder all models alike; (4) no model
is multiplied by a soft permutation, see `soft`.

For models W_0 (the reference), ..., W_N, each with doubly stochastic matrices P_b of its chains,
X_b = P_b W_b in the common frame, S = X_0 + ... + X_N, and X_0 = W_0:

    F(P)       = sum over pairs a < b of <X_a, X_b> = (|S|^2 - sum |X_a|^2) / 2
    dF / dP_b  = sum over fields of (S - X_b) (W_b, all chains permuted but this one)^T     (n, n)
    V_b        = the permutation with the largest <dF / dP_b, V>; all models, all chains at once
    P_b        <- (1 - t) P_b + t V_b, one t in [0, 1] for all: the highest F on the segment

A linear function is largest at a vertex of the polytope, and its vertices are permutations, so
the direction is an assignment and every point a mixture of permutations. F is not concave: the
walk climbs to a stationary point, not to the best. For hard permutations |X_b| is constant, and F
is what MergeMany climbs one model at a time; with one model it is that of weight matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyadd
from numpy.typing import NDArray
from torch import Tensor

from rebasin_cli.matching.relaxation.polytope import Polytope
from rebasin_cli.matching.relaxation.soft import Mixture, soften
from rebasin_cli.matching.relaxation.soft_fields import GroupNames, Vertex
from rebasin_cli.matching.relaxation.stacks import Matrices, stack_fields
from rebasin_cli.permutation import Permutation, identity
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import draw_permutations

STEPS = 200
RISE = 1e-6  # of the value: a step that gains less is one without progress (published: absolute)
PATIENCE = 3  # steps without progress before it stops

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Relaxed:
    """What was found: a soft permutation (N, N) of each chain for each model that may move.

    values: of the objective, at the start and after each step; it never falls, but rounding may
    lower it: what is rounded is then improved by coordinates.
    """

    soft: tuple[Mapping[GroupNames, Tensor], ...]
    values: tuple[float, ...]


class FrankWolfe:
    """A walk through the polytope: every model's arrays and soft permutations, as they are now."""

    def __init__(self, polytope: Polytope, starts: Sequence[Vertex | None]) -> None:
        """starts: the orders of each model but the reference; None: the middle of all orders."""
        self._polytope = polytope
        self._stacks = stack_fields(polytope.fields, polytope.fixed)
        self._models = [
            [soften(stack, which + 1, start, fixed=polytope.fixed) for stack in self._stacks]
            for which, start in enumerate(starts)
        ]
        self._soft = [polytope.matrices(start) for start in starts]
        # units that are worth the same (dead ones) then stay where they are
        members = [group for family in polytope.families for group in family.members]
        here = {g.name: identity(g.shape, g.parents).index for g in members}
        self._seen: list[Mapping[str, Tensor]] = [here for _ in starts]
        # Alone in a field, a chain meets nothing that moves but other models. With one model beside
        # the reference the slope there is W_0 W_1^T wherever one stands, and is computed once.
        self._moving = [
            k for k, s in enumerate(self._stacks) if len(s.chains) > 1 or len(starts) > 1
        ]
        self._still = Matrices(polytope.chains, polytope.fields[0].arrays[0])
        for k, stack in enumerate(self._stacks):
            if k not in self._moving:
                self._add(self._still, k, 0, stack.arrays)

    def run(self, steps: int = STEPS, progress: Progress = silent) -> Relaxed:
        """Step until the objective stops rising.

        A step of length 0 ends the walk at once: the next slope would be the same.
        """
        values, idle = list[float](), 0
        while len(values) <= steps and idle < PATIENCE:
            vertices = self._vertices()
            value, length = self._advance(vertices)
            if not values:
                values.append(value(0.0))
            values.append(value(length))
            # it ends by itself, mostly long before the last step: no share of it can be told
            progress("matching all groups at once", len(values) - 1, 0)
            idle = idle + 1 if values[-1] - values[-2] <= RISE * abs(values[-1]) else 0
            if length == 0:
                break
        return Relaxed(tuple(soft.by_chain for soft in self._soft), tuple(values))

    def perturb(self, generator: torch.Generator, length: float) -> None:
        """Go some way towards random permutations: another place to start from."""
        members = [group for family in self._polytope.families for group in family.members]
        vertices = [
            self._polytope.orders(draw_permutations(members, generator)) for _ in self._models
        ]
        self._advance(vertices, length)

    def rounded(self) -> list[dict[str, Permutation]]:
        """Return for each model the permutations closest to its soft ones.

        |P - V|^2 = |P|^2 - 2 <P, V> + N, so the closest V has the largest <P, V>: an assignment.
        """
        return [self._polytope.vertex(soft.by_chain, {}) for soft in self._soft]

    def _vertices(self) -> list[Vertex]:
        """Return for each model the vertex in whose direction the objective rises most.

        All from the same point: no model or family is told of another's new vertex. That they may
        not go together is what the common length of the step answers to.
        """
        found = list[Vertex]()
        for which in range(len(self._models)):
            slope = self._slope(which).by_chain
            self._seen[which] = self._polytope.indices(slope, self._seen[which])
            found.append(self._polytope.spread(self._seen[which]))
        return found

    def _slope(self, which: int) -> Matrices:
        """Return the gradient of the objective by a model's soft permutations.

        F is linear in each occurrence of a chain, so the derivative by P[i, j] is the product of
        unit i of what the model is added to and unit j of the model with the chain left out. A
        chain at two positions of a field gives two such terms, by the product rule.
        """
        slope = self._still.copy()
        for position in self._moving:
            stack = self._stacks[position]
            target = stack.arrays[0]
            for other, model in enumerate(self._models):
                if other != which:
                    target = target + model[position].whole
            own = self._models[which][position]
            for k in range(len(stack.chains)):
                self._add(slope, position, k, (target, own.but(k)))
        return slope

    def _add(self, slope: Matrices, position: int, k: int, arrays: Sequence[Tensor]) -> None:
        """Add the inner products of units in two arrays of a stack to the slope."""
        stack = self._stacks[position]
        reference, other = (stack.units(array, k) for array in arrays)
        slope.add(stack.owners(k), reference, other)

    def _advance(
        self, vertices: Sequence[Vertex], length: float | None = None
    ) -> tuple[Polynomial, float]:
        """Go along the segment, None: to its best point; return the objective and the length."""
        segments = [
            [part.towards(vertex) for part in model]
            for model, vertex in zip(self._models, vertices, strict=True)
        ]
        # One polynomial for the whole network: coefficients of fields with other degrees add up.
        total: Floats = np.zeros(1)
        for position, stack in enumerate(self._stacks):
            mixtures = [model[position][stack.everywhere] for model in segments]
            total = polyadd(total, on_segment(stack.arrays[0], mixtures))
        value = Polynomial(total)
        length = best_length(value) if length is None else length
        for model, ways in zip(self._models, segments, strict=True):
            for part, way in zip(model, ways, strict=True):
                part.step(way, length)
        for soft, vertex in zip(self._soft, vertices, strict=True):
            soft.mix(vertex, length)
        return value, length


def on_segment(reference: Tensor, models: Sequence[Mixture]) -> Floats:
    """Return the sum over pairs of models of their inner product, as coefficients of powers.

    Equal to (|S|^2 - sum |W|^2) / 2 with S the sum of the models W: quadratic for two models
    with one in place, quartic for more, where two chains meet in a tensor.

    With k chains in the field, X(t) = sum over u <= k of (1 - t)^(k - u) t^u M[u] (see `soft`):
    `alone` has <W_0, M[u]>, of degree k, and `together` <M[u], M'[v]> of two models that move, of
    degree 2k. Each model meets the sum of those before it, so the cost grows with their number.
    A search by values, as published (Brent's), needs some twenty evaluations and never returns
    an end of the segment; this has all of the segment for (k + 1) (k + 2) products a model.
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
    """Return the matrix from sum over u of (1 - t)^(k - u) t^u b[u] to powers of t; k: degree.

    Column u has the coefficients of (1 - t)^(k - u) t^u: Bernstein's basis less the binomials,
    which are in M[u] already, a sum over all choices of u chains.
    """
    columns = [
        Polynomial([1.0, -1.0]) ** (degree - u) * Polynomial([0.0, 1.0]) ** u
        for u in range(degree + 1)
    ]
    return np.stack([np.pad(c.coef, (0, degree + 1 - len(c.coef))) for c in columns], axis=1)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def best_length(value: Polynomial) -> float:
    """Return the step in [0, 1] where the objective is highest.

    Between the ends it can only be where the derivative vanishes. Both ends are tried: where
    the objective is convex along the segment the best step is all the way, or none. Of equal ones
    the shortest is taken, so that a walk that gains nothing stays.
    """
    roots = value.deriv().roots()
    inside = [float(r.real) for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    return max((0.0, 1.0, *inside), key=lambda t: (value(t), -t))

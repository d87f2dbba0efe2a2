"""Models under soft permutations: points of the polytope whose vertices are permutations.

Models are never multiplied by a soft permutation: a step towards a vertex replaces every array
by a mixture of arrays that are already there and of arrays reordered.

For an array W with chains 1..k let W[C] be W with the soft permutation P_c applied along every
chain c of a set C. Each step takes all P_c to (1 - t) P_c + t V_c, and W[C] is linear in each:

    W[C] at t = sum over H subset of C of (1 - t)^|C - H| t^|H| W[C - H] with V_c along c in H

W[C - H] is among what is kept, and V_c along it is a reordering: numel copies where a product
with P_c takes n numel multiplications. Exact, not an approximation; the price is memory, 2^k
arrays a model, of which k is 2 in nearly every tensor. Ours: published walks multiply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rebasin_cli.matching.relaxation.soft_fields import Vertex
from rebasin_cli.matching.relaxation.stacks import Stack

# On the segment to a vertex an array is the sum over u of (1 - t)^(k - u) t^u mixture[u], with k
# the chains that are permuted in it, and u of them taken to the vertex.
Mixture = list[Tensor]


@dataclass
class Softened:
    """One model of a stack with some chains permuted softly, and others not at all.

    parts: array by the set of chains that are permuted in it.
    """

    stack: Stack
    parts: dict[int, Tensor]

    @property
    def whole(self) -> Tensor:
        """The model in the common frame."""
        return self.parts[self.stack.everywhere]

    def but(self, position: int) -> Tensor:
        """Return the model with all chains permuted but one."""
        return self.parts[self.stack.everywhere ^ (1 << position)]

    def towards(self, vertex: Vertex) -> dict[int, Mixture]:
        """Return each part on the segment to a vertex."""
        orders = [self.stack.order(k, vertex) for k in range(len(self.stack.chains))]
        way = VertexPath(
            self.stack, orders, {(chosen, 0): part for chosen, part in self.parts.items()}
        )
        return {
            chosen: [way.mixed(chosen, count) for count in range(size + 1)]
            for chosen in sorted(self.parts)
            for size in (chosen.bit_count(),)
        }

    def step(self, segment: Mapping[int, Mixture], length: float) -> None:
        """Go along a segment."""
        for chosen, mixture in segment.items():
            if len(mixture) > 1:
                self.parts[chosen] = _blended(mixture, length)


def soften(
    stack: Stack, which: int, start: Vertex | None, *, fixed: frozenset[str] = frozenset()
) -> Softened:
    """Return a model under a start: the order of each chain, None for the middle of all orders.

    fixed: groups that stay, so that the middle does not mix their units.
    """
    # Sets as numbers in increasing order: that without its last chain is there before it.
    parts = {0: stack.arrays[which]}
    for chosen in range(1, stack.everywhere + 1):
        position = chosen.bit_length() - 1
        before = parts[chosen ^ (1 << position)]
        if start is None:
            parts[chosen] = stack.middle(before, position, fixed)
        else:
            parts[chosen] = stack.taken(before, position, stack.order(position, start))
    return Softened(stack, parts)


@dataclass(frozen=True)
class VertexPath:
    """The way of a model to a vertex.

    orders: of the chains, at the vertex. moved: what is known of the parts with some chains
    permuted softly and others at the vertex, by both sets.
    """

    stack: Stack
    orders: Sequence[Tensor]
    moved: dict[tuple[int, int], Tensor]

    def mixed(self, chosen: int, count: int) -> Tensor:
        """Return the sum over all ways to take `count` of the chosen chains to the vertex."""
        subsets = (s for s in range(chosen + 1) if s & chosen == s and s.bit_count() == count)
        first, *others = (self._reordered(chosen ^ hard, hard) for hard in subsets)
        return sum(others, first)

    def _reordered(self, soft: int, hard: int) -> Tensor:
        """Return the part in which `soft` is permuted, with the chains in `hard` at the vertex.

        Kept by both sets: the part of all chains and the parts of fewer need some of the same.
        """
        if (soft, hard) not in self.moved:
            last = hard.bit_length() - 1
            before = self._reordered(soft, hard ^ (1 << last))
            self.moved[soft, hard] = self.stack.taken(before, last, self.orders[last])
        return self.moved[soft, hard]


def _blended(mixture: Mixture, length: float) -> Tensor:
    """Return the point of a segment."""
    last = len(mixture) - 1
    value = mixture[0] * (1 - length) ** last
    for count, array in enumerate(mixture[1:], 1):
        value.add_(array, alpha=(1 - length) ** (last - count) * length**count)
    return value

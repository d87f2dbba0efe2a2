"""How the tensors of several models become one: the name of a method, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass

MEAN, ARC, STOCK = "mean", "slerp-n", "model-stock"
SUMS = ("task-arithmetic", "dare")  # every weight counts in full, they are not divided by their sum
FROM_BASE = (*SUMS, "ties", "dare-ties", STOCK)
COMBINATIONS = (MEAN, ARC, *FROM_BASE)

# What is kept of a difference: of TIES as published; DARE drops up to 0.9, where the models are
# large and near to their base, and half does no harm to small ones.
DENSITIES = {"ties": 0.2, "dare": 0.5, "dare-ties": 0.5}


@dataclass(frozen=True)
class Combination:
    """How models are combined.

    combine: one of COMBINATIONS. density: the share of each difference that is kept, for the keys
    of DENSITIES. scale: multiplies what is added to the base. seed: of what DARE drops.
    """

    combine: str = MEAN
    density: float = 1.0
    scale: float = 1.0
    seed: int = 0

    @property
    def from_base(self) -> bool:
        """Whether differences to a base are what is combined."""
        return self.combine in FROM_BASE

    @property
    def sparse(self) -> bool:
        """Whether a part of each difference is left out."""
        return self.combine in DENSITIES

    @property
    def scaled(self) -> bool:
        """Whether what is added to the base can be scaled."""
        return self.from_base and self.combine != STOCK

    def reach(self, weights: tuple[float, ...]) -> float:
        """Return how far from the base to the mean of the models their sum leads, at most 1."""
        whole = sum(weights) if self.combine in SUMS else 1.0
        return min(max(self.scale * whole, 0.0), 1.0)

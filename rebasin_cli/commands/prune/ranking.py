"""How the weights of a model are ranked, and what becomes of those that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rebasin_cli.commands.prune.thresholds import Rule, Zeroed
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class FisherFacts:
    """What weights were judged by. block_size, damping: None for the diagonal alone.

    damping: lambda itself, which is added to the diagonal.
    """

    examples: int
    block_size: int | None = None
    damping: float | None = None


@dataclass(frozen=True)
class Ranking:
    """A value for each weight: those of the smallest magnitudes go.

    values: by the names of the weights. pruned: what makes the model of which rules, by name, keep
    what they say. fisher: what the values rest on, where they are no magnitudes.
    """

    values: TensorSource
    pruned: Callable[[Mapping[str, Rule]], TensorSource]
    fisher: FisherFacts | None = None


def by_magnitude(source: TensorSource) -> Ranking:
    """Return the ranking by the weights themselves."""
    return Ranking(source, lambda rules: Zeroed(source, rules))

"""What a matching cannot do without: the products of its visits, and an assignment for each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign
from rebasin_cli.matching.problem.axis_chains import as_rows
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.search import descent
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import InMemory, TensorSource
from tests.benchmarks.bed.pairs import Pair, perceptrons


@dataclass(frozen=True)
class Floor:
    """CPU seconds of a search's visits if each were one product a block and one assignment."""

    products: float
    assignments: float

    @property
    def total(self) -> float:
        return self.products + self.assignments


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the visits of each family during a search."""
    visits, visit = Counter[str](), descent.visit

    def counting(kept: Any, family: GroupFamily, *rest: Any, **named: Any) -> Any:
        visits[family.root] += 1  # safe on one thread: benchmarks match with jobs=1
        return visit(kept, family, *rest, **named)

    with patch.object(descent, "visit", counting):
        yield visits


def floor_of(pair: Pair, permutations: Permutations, visits: Counter[str]) -> Floor:
    """Measure products and assignment of every family once, where the search ended.

    For families of one group in which no block holds the group twice.
    """
    moved = Permuted(InMemory(pair.other), pair.bound.tensors, permutations)
    products = assignments = 0.0
    for root, family in families(pair.bound).items():
        similarity, seconds = _contracted(family, InMemory(pair.reference), moved)
        products += visits[root] * seconds
        assignments += visits[root] * _assigned(similarity)
    return Floor(products, assignments)


def _contracted(family: GroupFamily, a: TensorSource, b: TensorSource) -> tuple[Tensor, float]:
    """Return a family's similarity and the seconds of its products; layouts are not counted."""
    size, seconds = family.members[0].size, 0.0
    similarity = torch.zeros(size, size)
    for site in family.sites:
        for position in family.own(site):
            rows, columns = (
                as_rows(site.array(source), position).contiguous() for source in (a, b)
            )
            began = time.process_time()
            similarity.addmm_(rows, columns.T)
            seconds += time.process_time() - began
    return similarity, seconds


def _assigned(similarity: Tensor) -> float:
    began = time.process_time()
    assign(similarity)
    return time.process_time() - began


def warm() -> None:
    """Match something small, so that nothing is done for the first time afterwards."""
    perceptrons(32).match(Settings())

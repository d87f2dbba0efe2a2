"""What pruning did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint import Written
from rebasin_cli.evaluate.correcting import Report


@dataclass(frozen=True)
class PrunedTensor:
    """How many weights of one tensor stay. threshold: the largest magnitude that was removed."""

    name: str
    weights: int
    kept: int
    threshold: float


@dataclass(frozen=True)
class Pruned:
    """A model of which the smallest weights were set to zero.

    others: tensors that were not pruned. masks: whether the file's metadata hold them. report: how
    the statistics were corrected, if they were.
    """

    model: Path
    method: str
    sparsity: float
    tensors: tuple[PrunedTensor, ...]
    others: int
    masks: bool
    written: Written
    seconds: float
    report: Report | None = None

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def threshold(self) -> float | None:
        """The magnitude that decided, None where each tensor has its own."""
        found = {tensor.threshold for tensor in self.tensors}
        return found.pop() if self.method == "magnitude" and len(found) == 1 else None

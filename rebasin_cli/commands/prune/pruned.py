"""What pruning did to a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.prune.ranking import FisherFacts
from rebasin_cli.renormalization.corrected import Report


@dataclass(frozen=True)
class PrunedTensor:
    """How many weights of one tensor stay.

    threshold: the largest magnitude, or by the Fisher the largest cost, that was removed; None
    where neighbours were compared.
    """

    name: str
    weights: int
    kept: int
    threshold: float | None


@dataclass(frozen=True)
class Pruned:
    """A model of which the smallest weights were set to zero.

    others: tensors that were not pruned. masks: whether the file's metadata hold them. report: how
    the statistics were corrected, if they were. fisher: what judged the weights.
    """

    model: Path
    method: str
    sparsity: float | None
    pattern: str | None
    tensors: tuple[PrunedTensor, ...]
    others: int
    masks: bool
    written: Written
    seconds: float
    report: Report | None = None
    fisher: FisherFacts | None = None

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def threshold(self) -> float | None:
        """The magnitude or cost that decided, None where each tensor has its own."""
        found = {tensor.threshold for tensor in self.tensors}
        return found.pop() if self.method != "layer-magnitude" and len(found) == 1 else None

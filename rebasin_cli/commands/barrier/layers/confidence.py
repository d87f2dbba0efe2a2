"""Whether a model is as sure as it is right: the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # of equal width, as in Guo et al. 2017, "On calibration of modern neural networks"


@dataclass(frozen=True)
class ConfidenceCalibration:
    """Answers sorted by the probability that the model gave them; float64, (BINS,) each.

    counts: of answers. hits: of right ones. sure: sums of the probabilities.
    """

    counts: Tensor
    hits: Tensor
    sure: Tensor

    @property
    def error(self) -> float:
        """The mean over all answers of |accuracy - mean probability| of the bin they are in."""
        return float((self.hits - self.sure).abs().sum() / self.counts.sum())

    def joined(self, other: ConfidenceCalibration) -> ConfidenceCalibration:
        """Return the calibration over the answers of both."""
        return ConfidenceCalibration(
            self.counts + other.counts, self.hits + other.hits, self.sure + other.sure
        )


def measure_calibration(logits: Tensor, targets: Tensor) -> ConfidenceCalibration:
    """Return the calibration of logits (answers, classes) against targets (answers,)."""
    sure, chosen = logits.detach().to("cpu", torch.float64).softmax(-1).max(-1)
    right = (chosen == targets.cpu()).to(torch.float64)
    place = ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    empty = torch.zeros(BINS, dtype=torch.float64)
    return ConfidenceCalibration(
        empty.index_add(0, place, torch.ones_like(sure)),
        empty.index_add(0, place, right),
        empty.index_add(0, place, sure),
    )

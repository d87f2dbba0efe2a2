"""The loss of the midpoint of two models on data, by which alignments are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.orthogonal.learn import distilled_loss
from rebasin_cli.errors import UserCodeError
from rebasin_cli.merging.sources import Mean
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import Network
from rebasin_cli.network.scoring.scores import mean_loss
from rebasin_cli.options.machine import Machine
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import METHODS
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Window

FEW = 10  # batches: the losses of midpoints are tenths of a nat apart
RESET = "reset"

MidpointLoss = Callable[[nn.Module], float]


@dataclass(frozen=True)
class MidpointJudge:
    """A network that is filled with the midpoint of two models, and the loss that judges it.

    model: is overwritten. windows: where tensors of a checkpoint lie in it. selects: takes what is
    averaged; the rest is the reference's. data: its name, for an error. reset: batches on which
    BatchNorm layers are measured anew, as `renormalize --method reset` does; None: their statistics
    are averaged as the weights are.
    """

    model: nn.Module
    windows: Mapping[str, Window]
    selects: Callable[[str], bool]
    ask: MidpointLoss
    data: str
    reset: Batches | None = None

    def loss(self, reference: TensorSource, moved: TensorSource) -> float:
        """Return the loss of the midpoint. Raises UserCodeError for one that is no number."""
        fill(self.model, Mean((reference, moved), (1, 1), 0, self.selects), self.windows)
        if self.reset is not None and _has_running_norms(self.model):
            METHODS[RESET](self.model, {}, self.reset, CorrectionSettings(RESET))
        loss = self.ask(self.model)
        if not math.isfinite(loss):
            raise UserCodeError(f"{self.data}: the loss of a midpoint is {loss}")
        return loss


def _has_running_norms(model: nn.Module) -> bool:
    """Return whether a model has BatchNorm layers that keep statistics."""
    return any(isinstance(m, _BatchNorm) and m.running_var is not None for m in model.modules())


def loss_by_answers(
    network: Network, ends: Sequence[Checkpoint], machine: Machine, batches: Sequence[Batch]
) -> MidpointLoss:
    """Return the loss that `--learn` makes less: against what both ends answer, without labels."""
    models = [build_network(network, end, machine) for end in ends]

    def loss(midpoint: nn.Module) -> float:
        with torch.no_grad():
            return mean(float(distilled_loss(models, midpoint, batch)) for batch in batches)

    return loss


def loss_by_targets(batches: Sequence[Batch], name: str) -> MidpointLoss:
    """Return the cross-entropy against the targets in the data. name: of the data."""
    return lambda midpoint: mean_loss(midpoint, batches, name)

"""Midpoints of a reference and the orders of another model, run on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rebasin_cli.models.batch import Batch
from rebasin_cli.models.module_weights import fill, slopes_in
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.network.scoring.scores import judge_batch, mean_loss
from rebasin_cli.network.user_code import users_gradient
from rebasin_cli.permutation import Permutations
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Window

HALF = 0.5  # of a step of the free parameters is what the midpoint makes of it


class Midpoints:
    """A model that holds the midpoint for some permutations, written anew only where they change.

    model: is overwritten; its norms use the statistics of each batch, dropout is off, and every
    floating parameter gets a slope. windows: where a checkpoint's tensors lie in it. between:
    permutations -> the tensors of 1/2 (A + pi(B)).
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Mapping[str, Window],
        between: Callable[[Permutations], TensorSource],
    ) -> None:
        self._model, self._windows, self._between = batchwise(model), windows, between
        self._present: Permutations | None = None
        self._judged: tuple[Permutations, float] | None = None

    @property
    def norms(self) -> bool:
        """Whether norms use statistics of a batch where the model by itself has others stored."""
        return any(
            isinstance(module, _NormBase) and module.running_mean is not None
            for module in self._model.modules()
        )

    def held_out(self, permutations: Permutations, split: DataSplit) -> float:
        """Return the mean loss on the batches that nothing is learned from."""
        if self._judged is None or self._judged[0] != permutations:
            self._judged = permutations, self._loss(permutations, split)
        return self._judged[1]

    def slope(self, permutations: Permutations, batch: Batch, name: str) -> dict[str, Tensor]:
        """Return the slope of a batch's mean loss for the free parameters, by checkpoint name.

        With 1/2 (A + [pi(B) + free - stopgrad(free)]) in the model it is half the midpoint's own.
        Tensors that the loss does not depend on are left out. name: of the data, for an error.
        Raises UserCodeError for a loss without gradients.
        """
        model = self._at(permutations)
        model.zero_grad(set_to_none=True)
        total, _, answers = judge_batch(model, batch, name)
        with users_gradient(total, hint="--method weights and activations need none"):
            torch.autograd.backward([total / answers])
        return {name: HALF * s for name, s in slopes_in(model, self._windows).items()}

    def _loss(self, permutations: Permutations, split: DataSplit) -> float:
        return mean_loss(self._at(permutations), split.held_out(), split.batches.name)

    def _at(self, permutations: Permutations) -> nn.Module:
        """Return the model with the midpoint in it. Running statistics may be anything."""
        if self._present is None or self._present != permutations:
            fill(self._model, self._between(permutations), self._windows)
            self._present = permutations
        return self._model


def batchwise(model: nn.Module) -> nn.Module:
    """Return a model in eval mode, but for norms that would use running statistics.

    Every floating parameter asks for a slope.
    """
    model.eval()
    for module in model.modules():
        module.training = isinstance(module, _NormBase)  # its children, if any, as they are
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model

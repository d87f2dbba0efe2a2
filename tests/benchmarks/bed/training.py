"""Small networks trained where they are needed, from as many seeds as are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from tests.benchmarks.bed.judge import Judged, State, evaluation
from tests.benchmarks.bed.networks import BENCHMARKS

BATCH = 64
SMALL = ("M", 16, "M", 32, "M", 64)  # of the VGG: channels, and pools


@dataclass(frozen=True)
class Recipe:
    """How a network of the shared models.py is made and trained, on its training images.

    spec: a bundled name or a file.
    """

    name: str
    build: Callable[[ModuleType], nn.Module]
    spec: str
    epochs: int
    rate: float

    @property
    def batch_norm(self) -> bool:
        return "_bn" in self.name

    def trained(self, seed: int) -> State:
        """Return a model whose start and batches come from the seed."""
        tools = evaluation()
        torch.manual_seed(seed)
        model = self.build(tools.models).train()
        images, labels = tools.train_images()
        optimizer = self._optimizer(model)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.epochs)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
            schedule.step()
        return model.state_dict()

    def judged(self, state: State, *, reset: bool = False) -> Judged:
        """Return how a model does; reset: with BatchNorm statistics measured anew."""
        tools = evaluation()
        model = self.build(tools.models)
        model.load_state_dict(dict(state))
        if reset:
            tools.reset_bn(model)
        return Judged(*tools.evaluate(model.eval(), self.name))

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.batch_norm:
            return torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9)
        return torch.optim.Adam(model.parameters(), lr=self.rate)


def _spec(name: str) -> str:
    return str(BENCHMARKS / "specs" / f"{name}.yaml")


SMALL_RECIPES = (Recipe("mlp_128x2", lambda m: m.MLP((128, 128)), "mlp", 8, 0.001),)
RECIPES = (
    *SMALL_RECIPES,
    Recipe("small_vgg_bn", lambda m: m.VGG(SMALL, 64), _spec("small_vgg_bn"), 5, 0.05),
    Recipe("mlp_256x2", lambda m: m.MLP((256, 256)), "mlp", 10, 0.001),
    Recipe("mlp_512x3", lambda m: m.build("mlp_512x3"), "mlp", 10, 0.001),
    Recipe("vgg_bn", lambda m: m.build("vgg_bn"), _spec("vgg_bn"), 10, 0.05),
    Recipe("resnet20_bn_x1", lambda m: m.build("resnet20_bn_x1"), "resnet20-cifar", 10, 0.1),
)

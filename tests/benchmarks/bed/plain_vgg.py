"""A deep VGG without normalisation, trained here from two seeds on the shared training images."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.bed.judge import State, evaluation

NAME = "plain_vgg"
PLAN = ("M", 32, 32, "M", 64, 64, 64, 64, "M", 128, 128, 128, 128)  # channels, and pools
RECIPE = "3"  # goes into the names of the files: another recipe is trained anew
EPOCHS, BATCH, RATE, WARM_UP = 36, 50, 0.002, 100  # warm-up: steps
DECAY = 1.0  # so much that little of the random start is left: else nothing can be matched
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rebasin" / "benchmarks"


class PlainVGG(nn.Sequential):
    """Ten convolutions with ReLU between them and nothing else, three pools, one linear layer."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        channels = 1
        for step in PLAN:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
            channels = step
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                layer.register_parameter("bias", nn.Parameter(torch.zeros(len(layer.weight))))


def plain_vgg(seed: int) -> Path:
    """Return the file of the network trained from a seed; it is trained where there is none."""
    path = CACHE / f"{NAME}-{RECIPE}_s{seed}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(_trained(seed)), path)
    return path


def judged(state: State) -> tuple[float, float]:
    """Return loss and accuracy on the test images."""
    model = PlainVGG()
    model.load_state_dict(dict(state))
    loss, accuracy = evaluation().evaluate(model.eval(), NAME)
    return float(loss), float(accuracy)


def _trained(seed: int) -> State:
    images, labels = evaluation().train_images()
    torch.manual_seed(seed)
    model = PlainVGG().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(_moved(images[batch])), labels[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.state_dict()


def _rate(step: int, steps: int) -> float:
    """Rise over the warm-up, then fall to zero, both in a straight line."""
    return min((step + 1) / WARM_UP, (steps - step) / (steps - WARM_UP))


def _moved(images: Tensor) -> Tensor:
    """Return images mirrored, or not, and shifted by up to two pixels: each batch in one way."""
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return images.roll((down, right), (-2, -1))


def state(seed: int) -> State:
    return load_file(plain_vgg(seed))

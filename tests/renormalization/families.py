"""A network with every kind of layer, its parents, and data for it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rebasin_cli.network.batches import Batches


def data(inputs, batches=1):
    return Batches(lambda: iter(inputs.chunk(batches)))


def small(**sizes):
    """Return a network in which every kind of layer has a place."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    ).eval()


def seeded(build, seed):
    torch.manual_seed(seed)
    return build()


def mean_of(a, b):
    merged = copy.deepcopy(a)
    with torch.no_grad():
        for own, other in zip(merged.parameters(), b.parameters(), strict=True):
            own.copy_((own + other) / 2)
    return merged


def family(build=small):
    """Return a merged network and its parents."""
    a, b = (seeded(build, seed) for seed in (1, 2))
    return mean_of(a, b), [a, b]


def images(count=200):
    # large, so that the epsilon of the formulas, which is absolute, does not show
    return 50 * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def outputs(model, names, inputs):
    """Return what some layers of a model return, by hooks of the test's own."""
    found: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda m, i, o, name=name: found.__setitem__(name, o.clone())
        )
        for name in names
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found

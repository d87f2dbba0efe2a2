"""Residual convolutional networks under the names of several code bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


@dataclass(frozen=True)
class Names:
    """What a code base calls the parts; stages: their container, or none for layer1, layer2, ..."""

    norm: str = "bn"
    stages: str | None = None
    shortcut: str = "downsample"
    head: str = "fc"


@dataclass(frozen=True)
class Kind:
    """A residual block: the kernels of its convolutions, and how much wider the last one is."""

    kernels: tuple[int, ...]
    expansion: int = 1


BASIC = Kind((3, 3))
BOTTLENECK = Kind((1, 3, 1), expansion=4)


class Block(nn.Module):
    """conv1, bn1, conv2, bn2, ... beside the identity or a projection."""

    def __init__(self, kind: Kind, before: int, width: int, stride: int, names: Names) -> None:
        super().__init__()
        after = width * kind.expansion
        widths = (before, *[width] * (len(kind.kernels) - 1), after)
        strided = kind.kernels.index(3)
        self.layers: list[nn.Sequential] = []  # a list registers no names: those are given here
        for index, (a, b) in enumerate(pairwise(widths)):
            layer = convolution(a, b, kind.kernels[index], stride if index == strided else 1)
            self.add_module(f"conv{index + 1}", layer[0])
            self.add_module(f"{names.norm}{index + 1}", layer[1])
            self.layers.append(layer)
        self.shortcuts: list[nn.Sequential] = []
        if stride != 1 or before != after:
            self.shortcuts.append(convolution(before, after, 1, stride))
            self.add_module(names.shortcut, self.shortcuts[0])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers[:-1]:
            y = F.relu(layer(y))
        for shortcut in self.shortcuts:
            x = shortcut(x)
        return F.relu(self.layers[-1](y) + x)


class ResNet(nn.Module):
    """A stem, stages of blocks that double the width and halve the picture, and a linear head."""

    def __init__(
        self,
        kind: Kind,
        depths: Sequence[int],
        *,
        stem: int = 7,
        width: int = 4,
        names: Names | None = None,
    ) -> None:
        super().__init__()
        names = names or Names()
        layer = convolution(3, width, stem, 1)
        self.conv1 = layer[0]
        self.add_module(f"{names.norm}1", layer[1])
        stages = list(stages_of(kind, depths, width, names))
        if names.stages:
            self.add_module(names.stages, nn.Sequential(*stages))
        else:
            for number, stage in enumerate(stages, 1):
                self.add_module(f"layer{number}", stage)
        head = nn.Linear((width << len(depths) - 1) * kind.expansion, CLASSES)
        self.add_module(names.head, head)
        self.parts = [layer, nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    """Return a convolution without bias, and its norm."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def stages_of(
    kind: Kind, depths: Sequence[int], width: int, names: Names
) -> Iterator[nn.Sequential]:
    """Yield the stages; every one but the first halves the picture."""
    before = width
    for stage, depth in enumerate(depths):
        inner, blocks = width << stage, []
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            blocks.append(Block(kind, before, inner, stride, names))
            before = inner * kind.expansion
        yield nn.Sequential(*blocks)

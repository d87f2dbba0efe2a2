"""Residual networks for small pictures in the forms that do without batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


@dataclass(frozen=True)
class Form:
    """What there is beside convolutions: biases, LayerNorms, or Fixup's biases and scales.

    padded: shortcuts put zeros behind the channels that there are, and have no weights.
    """

    bias: bool = False
    norm: bool = False
    fixup: bool = False
    padded: bool = False


FORMS = {
    "plain": Form(bias=True),
    "nobias": Form(),
    "ln": Form(norm=True),
    "fixup": Form(fixup=True),
    "padded": Form(fixup=True, padded=True),
}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class CifarBlock(nn.Module):
    """conv1, conv2 beside the identity, a projection, or a padded picture."""

    bias1a: nn.Parameter | None
    bias1b: nn.Parameter | None
    bias2a: nn.Parameter | None
    bias2b: nn.Parameter | None
    scale: nn.Parameter | None

    def __init__(self, before: int, width: int, stride: int, form: Form) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=form.bias)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=form.bias)
        self.norm1, self.norm2 = (_norm(width, form) for _ in range(2))
        for name in ("bias1a", "bias1b", "bias2a", "bias2b", "scale"):
            self.register_parameter(name, _number(form))
        self.shortcut = nn.Sequential()
        self.stride, self.new = stride, width - before
        if self.new and not form.padded:
            self.shortcut.append(nn.Conv2d(before, width, 1, stride, bias=False))
            if form.norm:
                self.shortcut.append(ChannelNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(_added(x, self.bias1a))
        y = F.relu(_added(self.norm1(y), self.bias1b))
        y = self.norm2(self.conv2(_added(y, self.bias2a)))
        y = _added(y if self.scale is None else y * self.scale, self.bias2b)
        return F.relu(y + self._beside(x))

    def _beside(self, x: Tensor) -> Tensor:
        if not self.new:
            return x
        x = _added(x, self.bias1a)
        if len(self.shortcut):
            return self.shortcut(x)
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


class CifarResNet(nn.Module):
    """A stem, stages called segments.0, ... or layer1, ... if padded, and a head."""

    def __init__(self, form: str, depths: Sequence[int] = (1, 2, 2), width: int = 4) -> None:
        super().__init__()
        said = FORMS[form]
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=said.bias)
        self.norm1 = _norm(width, said)
        self.bias1, self.bias2 = _number(said), _number(said)
        widths = [width << stage for stage in range(len(depths))]
        stages = [
            nn.Sequential(
                CifarBlock(before, after, 1 + (after > before), said),
                *(CifarBlock(after, after, 1, said) for _ in range(depth - 1)),
            )
            for before, after, depth in zip([width, *widths], widths, depths, strict=False)
        ]
        if said.padded:
            for number, stage in enumerate(stages, 1):
                self.add_module(f"layer{number}", stage)
        else:
            self.segments = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], CLASSES, bias=form != "nobias")
        self.stages: list[Any] = stages  # a list registers no names

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(_added(self.norm1(self.conv1(x)), self.bias1))
        for stage in self.stages:
            x = stage(x)
        return self.fc(_added(x.mean((2, 3)), self.bias2))


def _norm(width: int, form: Form) -> nn.Module:
    return ChannelNorm(width) if form.norm else nn.Identity()


def _number(form: Form) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1)) if form.fixup else None


def _added(x: Tensor, number: Tensor | None) -> Tensor:
    return x if number is None else x + number

"""VGG under torchvision's names, with narrow layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias).movedim(-1, 1)


NORMS = {"bn": nn.BatchNorm2d, "ln": ChannelNorm}


class Vgg(nn.Module):
    """`features`, a pool to 7 x 7, `classifier`; channels are torchvision's over `divisor`.

    norm: a key of NORMS, or none. small: for small pictures, with a pool to one pixel and one
    linear layer; beside norms it is `classifier`, without them `classifier.0`.
    """

    def __init__(
        self, depth: int, *, norm: str | None = None, divisor: int = 16, small: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for count, channels in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
            for _ in range(count):
                width = channels // divisor
                layers.append(nn.Conv2d(before, width, 3, padding=1))
                layers += [NORMS[norm](width)] if norm else []
                layers.append(nn.ReLU())
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 7)
        self.classifier: nn.Module
        if small:
            head = nn.Linear(before, 10)
            self.classifier = head if norm else nn.Sequential(head)
            return
        hidden = 4096 // divisor
        self.classifier = nn.Sequential(
            nn.Linear(before * 49, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))

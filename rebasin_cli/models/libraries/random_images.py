"""Inputs of models that see images or videos."""

from __future__ import annotations

from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import InputFamily, normal_noise

# The first is large enough that a network which divides by 32 keeps a map of several positions:
# a map of size 1 would hide what its positions have in common.
SIDES = (96, 64, 128, 160, 192, 224, 240, 256, 288, 299, 300, 320, 384, 448, 512, 560, 32, 28)


def image(shape: tuple[int, ...]) -> Example:
    """Return a call with one float tensor of the shape."""
    return Example((normal_noise(shape),))


def image_family(channels: int = 3, native: tuple[int, ...] = ()) -> InputFamily:
    """Return square images of growing sides, (channels, side, side), the native shape last."""
    shapes = [(channels, side, side) for side in SIDES]
    return InputFamily(image, [*shapes, (channels, *native)] if native else shapes)

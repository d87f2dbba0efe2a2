"""MViT for fewer frames of fewer pixels: its sizes are fixed by the functions that build it."""

from __future__ import annotations

import importlib
import inspect
import types
from functools import partial
from typing import Any

from torch import nn

from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.trial_run import normal_noise

SPATIAL, TEMPORAL = (64, 64), 8  # instead of 224 and 16, of which a proof takes ten CPU minutes
KINDS = ("mvit_v1_b", "mvit_v2_s")


def small_video(name: str) -> Subject:
    """Return `torchvision:NAME` with all its widths, depths and strides, for smaller videos."""
    return Subject(f"torchvision:{name} (small videos)", partial(_built, name), _examples)


def _built(name: str) -> nn.Module:
    """Run torchvision's function with another idea of the sizes that it passes on."""
    module: Any = importlib.import_module("torchvision.models.video.mvit")
    function: Any = inspect.unwrap(getattr(module, name))

    def resized(**given: Any) -> nn.Module:
        return module._mvit(**{**given, "spatial_size": SPATIAL, "temporal_size": TEMPORAL})

    named = {**function.__globals__, "_mvit": resized}
    builder = types.FunctionType(function.__code__, named, name)
    model: nn.Module = builder(weights=None, progress=False)
    return model.eval()


def _examples(model: nn.Module) -> tuple[Example, ...]:
    return tuple(Example((normal_noise((batch, 3, TEMPORAL, *SPATIAL)),)) for batch in (2, 3))

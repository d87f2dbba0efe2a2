"""What a model computes, and how far apart two are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.tracer.recording.capture import named_outputs


def function_change(before: nn.Module, after: nn.Module, example: Example) -> float:
    """Return the largest difference of outputs, relative to the largest value."""
    one, again = computed(before, example), computed(after, example)
    return max(
        float((again[name] - value).abs().max() / value.abs().max().clamp_min(1e-30))
        for name, value in one.items()
    )


def computed(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """Return the outputs that the tool promises to keep, in float64 where the model can."""
    try:
        found = _called(model, example, torch.float64)
    except RuntimeError:  # some layers make float32 of their own
        found = _called(model, example, torch.float32)
    kept = [name for name in found if "logits" in name] or list(found)[:1]
    return {name: found[name].double() for name in kept}


def _called(model: nn.Module, example: Example, dtype: torch.dtype) -> dict[str, Tensor]:
    model.to(dtype)
    torch.manual_seed(0)
    with torch.no_grad(), quiet():
        return named_outputs(model(*_cast(example.args, dtype), **_cast(example.kwargs, dtype)))


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """Return arguments with floating tensors in a dtype."""
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, Mapping):
        return {key: _cast(item, dtype) for key, item in tree.items()}
    return type(tree)(_cast(item, dtype) for item in tree) if type(tree) in (list, tuple) else tree

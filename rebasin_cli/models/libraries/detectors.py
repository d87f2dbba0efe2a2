"""Detectors without the part that depends on data: what is traced are the outputs of their heads.

Boxes are chosen by scores and thresholds, which no trace on abstract tensors survives and no two
runs with rounding errors reproduce. All of it comes after the last weight, or, for the second stage
of an R-CNN, between weights as a pooling of each channel by itself. So a permutation that
leaves the outputs of all heads unchanged leaves the detections unchanged.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def expose_heads(model: nn.Module) -> nn.Module:
    """Return the model; a detector of torchvision now maps images to its heads' raw outputs.

    Only `forward` of this one instance changes; names and shapes of its tensors do not. Its input
    becomes one tensor (batch, 3, height, width), already normalised.
    """
    forward: Callable[..., object]
    if hasattr(model, "roi_heads") and hasattr(model, "rpn"):
        forward = _two_stages
    elif hasattr(model, "head") and hasattr(model, "anchor_generator"):
        forward = _one_stage
    else:
        return model
    object.__setattr__(model, "forward", types.MethodType(forward, model))
    return model


def _features(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the maps of the backbone by name."""
    found = model.backbone(images)
    return {"0": found} if isinstance(found, torch.Tensor) else dict(found)


def _one_stage(model: Any, images: torch.Tensor) -> object:
    """Run backbone and head of RetinaNet, FCOS or SSD."""
    return model.head(list(_features(model, images).values()))


def _two_stages(model: Any, images: torch.Tensor) -> list[object]:
    """Run an R-CNN: proposals' head, then each branch on maps pooled whole instead of in boxes."""
    features = _features(model, images)
    outputs = [model.rpn.head(list(features.values()))]
    roi = model.roi_heads
    for kind in ("box", "mask", "keypoint"):
        pool = getattr(roi, f"{kind}_roi_pool", None)
        if pool is not None:
            pooled = _pooled(pool, features)
            head, predictor = getattr(roi, f"{kind}_head"), getattr(roi, f"{kind}_predictor")
            outputs.append(predictor(head(pooled)))
    return outputs


def _pooled(pool: Any, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the levels that a pooling reads, (levels * batch, channels, *its output size)."""
    maps = [level for name, level in features.items() if name in pool.featmap_names]
    size = (pool.output_size[0], pool.output_size[1])
    return torch.cat([functional.adaptive_avg_pool2d(level, size) for level in maps])

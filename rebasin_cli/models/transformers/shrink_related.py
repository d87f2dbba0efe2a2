"""Fields of a configuration that have to fit what other fields became."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS = ("num_hidden_layers", "num_layers", "depth")


def relate_fields(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with those that count in units of others as they were, in these units."""
    parts = (_layers, _crossing, _queries, _joined, _patches)
    fitted = {name: value for part in parts for name, value in part(new).items()}
    return {**new, **_stacked(old, new), **_pinpoints(old, new), **_stride(old, new), **fitted}


def _stacked(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inner width of an encoder of sound: projectors stack as many of its frames."""
    hidden, inner = old.get("hidden_size"), old.get("intermediate_size")
    heard = {"num_mel_bins", "max_source_positions", "input_dim"} & old.keys()
    if not (heard and isinstance(hidden, int) and isinstance(inner, int) and inner % hidden == 0):
        return {}
    return {"intermediate_size": inner // hidden * new["hidden_size"]}


def _pinpoints(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of images that tiles cover, in tiles of the new size."""
    points, before = old.get("image_grid_pinpoints"), _side(old)
    if not (points and before):
        return {}
    return {"image_grid_pinpoints": [[v // before * _side(new) for v in pair] for pair in points]}


def _stride(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many pixels a decoder makes of each place: as many patches as before."""
    stride, before = old.get("encoder_stride"), old.get("patch_size")
    if not (isinstance(stride, int) and isinstance(before, int) and stride % before == 0):
        return {}
    return {"encoder_stride": stride // before * new["patch_size"]}


def _side(fields: Mapping[str, Any]) -> int:
    """Return the side of one tile."""
    side = getattr(fields.get("vision_config"), "image_size", 0)
    return side if isinstance(side, int) else 0


def _layers(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return which layers of the vision tower are read: of those that are left."""
    tower = new.get("vision_config")
    depth = next((getattr(tower, name) for name in LAYERS if hasattr(tower, name)), 0)
    return {
        name: [max(-depth, min(depth, layer)) for layer in wanted]
        for name in ("vision_feature_layer", "vision_feature_layers")  # versions differ
        if depth and isinstance(wanted := new.get(name), (list, tuple))
    }


def _joined(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the width of a vision tower that puts out some inner layers beside its last."""
    if not {"vision_output_dim", "intermediate_layers_indices"} <= new.keys():
        return {}
    layers = 1 + len(new["intermediate_layers_indices"])
    return {"vision_output_dim": layers * new["hidden_size"]}


def _patches(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many values a patch of three colours has."""
    if not {"patch_embed_hidden_size", "patch_size"} <= new.keys():
        return {}
    return {"patch_embed_hidden_size": 3 * new["patch_size"] ** 2}


def _crossing(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return `cross_attention_layers` of fewer layers: those left, else the last but one."""
    chosen, depth = new.get("cross_attention_layers"), new.get("num_hidden_layers")
    if not (isinstance(chosen, (list, tuple)) and chosen and isinstance(depth, int)):
        return {}
    return {"cross_attention_layers": [layer for layer in chosen if layer < depth] or [depth - 2]}


def _queries(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many queries read how many patches: those of the smaller image."""
    if "projector_patch_to_query_dict" not in new:
        return {}
    tower = new["vision_config"]
    return {"projector_patch_to_query_dict": {(tower.image_size // tower.patch_size) ** 2: 4}}

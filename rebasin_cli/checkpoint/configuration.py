"""What a config.json beside the weights says of their dtype."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rebasin_cli.checkpoint.failures import reading
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.errors import CheckpointError

CONFIG = "config.json"
_OLD = "torch_dtype"  # the key that transformers wrote before version 4.56, and still reads
_NEW = "dtype"
_TIES = "tie_word_embeddings"
_LOADED_BY_TRANSFORMERS = ("model_type", "architectures")
# What says how weights are coded keeps its words: its dtypes are not those of the weights.
_CODES = ("quantization_config",)


def configuration_in(
    folder: Path,
    dtype: str | None,
    *,
    coded: bool = True,
    untied: bool = False,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> str | None:
    """Return a folder's config.json for weights of another dtype, or that are codes no more.

    untied: an output head that was the embedding is a tensor of its own. settings: what it says
    otherwise besides.

    As text; None if it says the same of them, or there is none that can be read.
    """
    path = folder / CONFIG
    with reading(path):
        if not path.is_file():
            return None
        data = path.read_bytes()
    try:
        config = parse_object(data, where=str(path), what="the configuration")
    except CheckpointError:
        return None  # whoever needs what it says has refused it before
    kept = {key: value for key, value in config.items() if coded or key not in _CODES}
    changed = _inside(kept, dtype) if dtype else kept
    if dtype and (_OLD in config or any(key in config for key in _LOADED_BY_TRANSFORMERS)):
        changed |= {_NEW: dtype}
    if untied:
        changed = untied_settings(changed)
    changed = {**changed, **settings}
    if changed == config:
        return None
    return json.dumps(changed, indent=2, ensure_ascii=False) + "\n"


def untied_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those of parts of the model in it, that ties no head."""
    return _without_ties(config) | {_TIES: False}


def _without_ties(config: Mapping[str, Any]) -> dict[str, Any]:
    inside = {k: _without_ties(v) if isinstance(v, dict) else v for k, v in config.items()}
    return {key: False if key == _TIES else value for key, value in inside.items()}


def _inside(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return a configuration, and those of parts of the model in it, with another dtype."""
    return {key: _with_dtype(key, value, dtype) for key, value in config.items()}


def _with_dtype(key: str, value: Any, dtype: str) -> Any:
    if isinstance(value, dict) and key not in _CODES:
        return _inside(value, dtype)
    return dtype if key in (_OLD, _NEW) and isinstance(value, str) else value

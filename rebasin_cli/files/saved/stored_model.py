"""What a permutation file says of the tensors that it was found for: all that an adapter needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.source_checkpoint import SourceCheckpoint
from rebasin_cli.errors import PermutationError
from rebasin_cli.json_text import read_json
from rebasin_cli.tensors import TensorInfo, dtype_name

TENSORS = "rebasin.tensors"


@dataclass(frozen=True)
class StoredModel:
    """Names and shapes of a model. ordered: they stand in the order of its modules."""

    model: Checkpoint
    ordered: bool


def tensors_entry(model: Checkpoint) -> dict[str, str]:
    """Return the metadata entry with the tensors of a model, in its order.

    A safetensors file has an order of its own, which is not that of the modules.
    """
    infos = map(model.info, model.names())
    value = {
        "ordered": model.layout.format == "pt",
        "tensors": {info.name: [dtype_name(info.dtype), *info.shape] for info in infos},
        "ties": dict(model.ties),
    }
    return {TENSORS: json.dumps(value)}


def stored_model(file: Checkpoint, config: Mapping[str, Any]) -> StoredModel | None:
    """Return the model that a permutation file was made for, None if the file does not describe it.

    Its tensors have names, shapes and dtypes, and no values. Raises PermutationError for an entry
    that is damaged.
    """
    if TENSORS not in file.metadata:
        return None
    try:
        value = read_json(file.metadata[TENSORS])
        infos = [_info(name, *said) for name, said in value["tensors"].items()]
        ties = {str(alias): str(first) for alias, first in value["ties"].items()}
        ordered = value["ordered"] is True
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"its metadata entry {TENSORS!r} is damaged"
        raise PermutationError(what, where=str(file.path)) from error
    source = _Outline({info.name: info for info in infos}, file.path)
    model = SourceCheckpoint(source, f"the model of {file.path}", ties=ties, config=config)
    return StoredModel(model, ordered)


def _info(name: str, dtype: str, *shape: int) -> TensorInfo:
    found = getattr(torch, dtype)
    if not isinstance(found, torch.dtype) or not all(type(n) is int and n >= 0 for n in shape):
        raise TypeError(f"{name}: {dtype} {shape}")
    return TensorInfo(name, shape, found)


class _Outline:
    """Tensors of which everything is known but their values."""

    def __init__(self, infos: Mapping[str, TensorInfo], path: Path) -> None:
        self._infos, self._path = infos, path

    def names(self) -> tuple[str, ...]:
        return tuple(self._infos)

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def load(self, name: str) -> Tensor:
        raise PermutationError(
            f"the values of {name!r} are needed, and are not in this file",
            where=str(self._path),
            hint="name the model with --base",
        )

"""Which architectures are tried: lists for torchvision and timm, every model of transformers."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rebasin_cli.models.transformers.transformers_models import HEADS

LISTS = Path(__file__).parent / "lists"
LIBRARIES = ("torchvision", "timm", "transformers")


def _lines(name: str) -> Iterator[str]:
    for line in (LISTS / f"{name}.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line


def _arguments(library: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for line in _lines(library):
        name, *pairs = line.split()
        split = (pair.partition("=") for pair in pairs)
        yield f"{library}:{name}", {key: json.loads(value) for key, _, value in split}


ARGUMENTS = {
    name: given for library in ("torchvision", "timm") for name, given in _arguments(library)
}


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def short_list() -> list[str]:
    """Return the architectures of the short form whose library is installed."""
    return [name for name in _lines("short") if installed(name.partition(":")[0])]


def full_list() -> list[str]:
    """Return all architectures whose library is installed."""
    named = [name for name in ARGUMENTS if installed(name.partition(":")[0])]
    return [*_model_types(), *named] if installed("transformers") else named


def matching(names: list[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def _model_types() -> Iterator[str]:
    """Yield the model types of transformers that stand for a model, not for a part of another."""
    auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    kinds: Any = importlib.import_module("transformers.models.auto.configuration_auto")
    tables = [f"MODEL_FOR_{head}_MAPPING_NAMES" for head in HEADS] + ["MODEL_MAPPING_NAMES"]
    known = {kind for table in tables for kind in getattr(auto, table, {})}
    for kind in kinds.CONFIG_MAPPING_NAMES:
        if kind in known:
            yield f"transformers:{kind}"

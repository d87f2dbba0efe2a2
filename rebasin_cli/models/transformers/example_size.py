"""A model of transformers and how large its example is: what every argument is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

SEEING = ("vision", "image", "visual", "qformer", "encoder")  # in names of parts
HEARING = ("audio", "speech", "sound", "encoder")


@dataclass(frozen=True)
class ExampleSize:
    """A model and how large its example is: batch, ids of a text, ids that a decoder reads."""

    model: Any
    batch: int
    length: int
    target: int

    def get(self, *names: str, default: int = 0) -> int:
        """Return the first of the fields that the configuration or one inside it sets."""
        return self._first(list(_tree(self.model.config)), names, default)

    def seen(self, *names: str, default: int = 0) -> int:
        """Return the same, those parts of the configuration first that are about images."""
        return self._first(list(configurations_in(self.model.config, SEEING)), names, default)

    def heard(self, *names: str, default: int = 0) -> int:
        """Return the same, those parts of the configuration first that are about sound."""
        return self._first(list(configurations_in(self.model.config, HEARING)), names, default)

    def _first(self, configs: list[Any], names: tuple[str, ...], default: int) -> int:
        for name in names:
            for config in configs:
                value = getattr(config, name, None)
                value = value[0] if isinstance(value, (list, tuple)) and value else value
                if isinstance(value, int) and value > 0:
                    return value
        return default


TensorMaker = Callable[[ExampleSize], torch.Tensor]


def configurations_in(config: Any, words: tuple[str, ...]) -> Iterator[Any]:
    """Yield configurations inside one whose name has one of the words, then all."""
    for name in getattr(config, "sub_configs", ()):
        inner = getattr(config, name, None)
        if inner is not None and any(word in name for word in words):
            yield from _tree(inner)
    yield from _tree(config)


def _tree(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it."""
    yield config
    for name in getattr(config, "sub_configs", ()):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _tree(inner)

"""A checkpoint seen with more units than its files have: what works on files works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.reader import DERIVED, Checkpoint
from rebasin_cli.checkpoint.weight_file import HeldOpen
from rebasin_cli.tensors import Derived, TensorInfo
from rebasin_cli.tensors.ranges import Ranged
from rebasin_cli.widening.growth import Growth

_WIDE = 4  # bytes of float32, whose rounding no output shows


class WiderCheckpoint(Checkpoint):
    """A checkpoint whose tensors grow as they are read, one at a time.

    narrow: as its files have it. settings: what a config.json says otherwise then.
    """

    narrow: Checkpoint
    growth: Growth
    settings: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return as_wider, (self.narrow, self.growth, self.settings)

    def info(self, name: str) -> TensorInfo:
        info, grown = self.narrow.info(name), self.growth.tensors.get(self._first(name))
        if grown is None:
            return info
        pair = (2,) if info.dtype.is_complex else ()
        shape = grown.shape((*info.shape, *pair))
        return replace(info, shape=shape[: len(info.shape)])

    def load(self, name: str) -> Tensor:
        tensor, grown = self.narrow.load(name), self.growth.tensors.get(self._first(name))
        return tensor if grown is None else grown.grown(tensor)

    @property
    def rounds(self) -> bool:
        """Whether values are computed that their dtype holds to a few digits only."""
        computed = (name for name, grown in self.growth.tensors.items() if grown.computes)
        return any(self.narrow.info(name).dtype.itemsize < _WIDE for name in computed)

    def ranged(self, name: str) -> Ranged | None:
        return None if self._first(name) in self.growth.tensors else self.narrow.ranged(name)

    def _first(self, name: str) -> str:
        """Return the name under which a spec has a tensor."""
        return name if name in self.growth.tensors else self.narrow.ties.get(name, name)

    @property
    def config(self) -> Mapping[str, Any]:
        return {**self.narrow.config, **self.settings}

    @property
    def layout(self) -> Layout:
        return self.narrow.layout

    @property
    def opened(self) -> tuple[HeldOpen, ...]:
        return self.narrow.opened

    def sha256(self) -> str:
        """Return the digest of the files as they are."""
        return self.narrow.sha256()


class Unrounded(Derived):
    """The tensors of a wider checkpoint as they are computed, not yet rounded to its dtypes."""

    def __init__(self, wide: WiderCheckpoint) -> None:
        super().__init__(wide)
        self._wide = wide

    def load(self, name: str) -> Tensor:
        grown = self._wide.growth.tensors.get(name)
        return (
            super().load(name) if grown is None else grown.unrounded(self._wide.narrow.load(name))
        )


def as_wider(narrow: Checkpoint, growth: Growth, settings: Mapping[str, Any]) -> WiderCheckpoint:
    """Return a checkpoint seen with more units; its files stay open with it."""
    found = object.__new__(WiderCheckpoint)
    kept = {k: value for k, value in vars(narrow).items() if k not in (*DERIVED, "config")}
    vars(found).update({**kept, "narrow": narrow, "growth": growth, "settings": settings})
    return found

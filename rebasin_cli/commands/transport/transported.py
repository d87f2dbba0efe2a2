"""The target with a difference added to it, tensor by tensor, as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.tensors import Derived, TensorInfo, TensorSource
from rebasin_cli.tensors.numbers import in_reals, of_reals

VARIANCE = "running_var"  # as the norms of torch call theirs


@dataclass(frozen=True)
class CarriedFrame:
    """The tuned model and its origin where a map brought them: in the frame of the target.

    Nothing is taken of their values but the difference. kept: by name, which coordinates of it
    count; those of a tensor without an entry all do.
    """

    target: TensorSource
    tuned: TensorSource
    origin: TensorSource
    kept: Mapping[str, Tensor] = field(default_factory=dict)


class Transported(Derived):
    """A TensorSource of target + scale * (tuned - origin), computed in float64.

    What has no difference has the target's own bits, and where origin and target agree the result
    is the tuned model's number, not one that was rounded twice.
    """

    def __init__(self, frame: CarriedFrame, fates: TensorFates, scale: float) -> None:
        super().__init__(frame.target)
        self._frame, self._fates, self._scale = frame, fates, scale

    def names(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*super().names(), *self._fates.replaced)))

    def info(self, name: str) -> TensorInfo:
        return self._fates.replaced.get(name) or super().info(name)

    def load(self, name: str) -> Tensor:
        if name in self._fates.replaced:
            return self._frame.tuned.load(name)
        target = super().load(name)
        if name not in self._fates.carried or not self._scale:
            return target
        frame = self._frame
        tuned, origin = (_wide(source.load(name)) for source in (frame.tuned, frame.origin))
        total = self._sum(_wide(target), tuned, origin)
        if name.endswith(VARIANCE):  # a sum of variances and differences may fall below zero
            total = total.maximum(torch.minimum(_wide(target), tuned))
        stays = tuned == origin
        if name in frame.kept:
            stays |= ~frame.kept[name]
        return of_reals(torch.where(stays, _wide(target), total), target.dtype)

    def _sum(self, target: Tensor, tuned: Tensor, origin: Tensor) -> Tensor:
        total = target + self._scale * (tuned - origin)
        return torch.where(target == origin, tuned, total) if self._scale == 1 else total


class DeltaOf(Derived):
    """A TensorSource of what has to be added to a target for it to become another model.

    What the target has not, or in another shape, is that of the other model, whole.
    """

    def __init__(self, model: TensorSource, target: TensorSource, fates: TensorFates) -> None:
        super().__init__(model)
        self._target, self._fates = target, fates

    def load(self, name: str) -> Tensor:
        if name in self._fates.replaced:
            return super().load(name)
        target = self._target.load(name)
        if name not in self._fates.carried:
            return torch.zeros_like(target)
        delta = _wide(super().load(name)) - _wide(target)
        return of_reals(delta, target.dtype)


def with_kept(frame: CarriedFrame, kept: Mapping[str, Tensor]) -> CarriedFrame:
    """Return a frame in which some coordinates alone count."""
    return replace(frame, kept=kept)


def _wide(tensor: Tensor) -> Tensor:
    return in_reals(tensor).to(torch.float64)

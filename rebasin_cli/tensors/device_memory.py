"""Where the memory of a device ends: the work goes on without what is only kept, then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from rebasin_cli.errors import ShortageWarning, warn

PINNED = 256 << 20  # bytes of one tensor: torch keeps what it has pinned

R = TypeVar("R")


class Roomy(Protocol):
    """Something with tensors on a device that can also be had with them on the CPU."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    @property
    def aside(self: PlaceT) -> PlaceT:
        """The same on the CPU."""

    def release(self) -> None:
        """Forget what is only kept to be quick."""


PlaceT = TypeVar("PlaceT", bound=Roomy)


def with_room(place: PlaceT, work: Callable[[PlaceT], R]) -> R:
    """Return what work makes of tensors where they are, or where memory ends there, on the CPU.

    work: is begun anew then, so that it must have changed nothing before it raises. Raises
    torch.OutOfMemoryError where that does not help either.
    """
    try:
        return work(place)
    except torch.OutOfMemoryError:
        tell_shortage(place.device)
    # Not in the handler, whose traceback keeps the tensors of the attempt.
    place.release()
    empty_cache()
    try:
        return work(place)
    except torch.OutOfMemoryError:
        pass
    return work(place.aside)


def zeros_with_room(*shape: int, like: Tensor) -> Tensor:
    """Return zeros of the dtype of a tensor on its device, or where memory ends there, the CPU."""
    try:
        return like.new_zeros(*shape)
    except torch.OutOfMemoryError:
        tell_shortage(like.device)
    return torch.zeros(*shape, dtype=like.dtype)


def tell_shortage(device: torch.device) -> None:
    """Warn that the memory of a device does not suffice; the same words each time."""
    text = (
        f"out of memory on {device.type}: the work goes on in smaller pieces, and where that does "
        "not help on the CPU, to the same result"
    )
    warn(text, ShortageWarning)


def empty_cache() -> None:
    """Give back to the device what torch holds of its memory without using it."""
    torch.cuda.empty_cache()  # which does nothing where CUDA was not used


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device. To a CUDA device it is copied while the CPU goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.nbytes > PINNED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

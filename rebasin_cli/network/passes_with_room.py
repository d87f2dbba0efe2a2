"""Passes of models over data that a device has no memory for are made on the CPU.

A batch is not cut: what its first axis is, only the user's code knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rebasin_cli.errors import DeviceMemoryError
from rebasin_cli.network.batches import Batches
from rebasin_cli.tensors.device_memory import empty_cache, tell_shortage

R = TypeVar("R")


def pass_with_room(
    models: Sequence[nn.Module], batches: Batches, work: Callable[[Batches], R]
) -> R:
    """Return what passes over data give, on the device of the data whoever made them.

    work: is begun anew on the CPU, with the models there meanwhile, so that it must have changed
    nothing before it raises. Raises DeviceMemoryError, or torch.OutOfMemoryError outside of the
    user's code, where that does not help.
    """
    device = torch.device(batches.device)
    try:
        return work(batches)
    except (DeviceMemoryError, torch.OutOfMemoryError):
        if device.type == "cpu":
            raise
        tell_shortage(device)
    empty_cache()
    with _on_cpu(models):
        found = work(replace(batches, device="cpu"))
    moved: R = _moved(found, device)
    return moved


@contextmanager
def _on_cpu(models: Sequence[nn.Module]) -> Iterator[None]:
    places = [next((t.device for t in model.parameters()), None) for model in models]
    for model in models:
        model.cpu()
    try:
        yield
    finally:
        for model, place in zip(models, places, strict=True):
            model.to(place)


def _moved(value: Any, device: torch.device) -> Any:
    """Return a value with all tensors in it on a device."""
    if isinstance(value, Tensor):
        unknown = device.type == "mps" and value.dtype == torch.float64  # which stays on the CPU
        return value if unknown else value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        copy: Any = replace
        return copy(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value

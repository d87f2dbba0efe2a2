"""Tensors ready to be compared: on the device, in the working dtype, checked and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.device_memory import on_device
from rebasin_cli.tensors.numbers import all_finite, in_reals


class DeviceTensors(Derived):
    """A TensorSource whose tensors are on `device` in `dtype`; the latest used are kept.

    Complex tensors come as their reals.
    limit: bytes of converted tensors to keep; more are loaded again when needed, so that a
    model larger than memory can be matched. Safe to use from several threads.
    load raises NotFiniteError, naming the tensor, if a value is NaN or infinite.
    """

    def __init__(
        self,
        source: TensorSource,
        *,
        label: str,
        device: torch.device,
        dtype: torch.dtype,
        limit: int,
    ) -> None:
        super().__init__(source)
        self.label = label
        self.device, self.dtype, self._limit = device, dtype, limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def load(self, name: str) -> Tensor:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        # Not under the lock: two threads may convert a tensor twice, but none waits for a disk.
        stored = in_reals(self._source.load(name))
        # Narrowed before and widened after it is copied; mps knows no float64.
        narrow = stored if stored.dtype.itemsize <= self.dtype.itemsize else stored.to(self.dtype)
        tensor = on_device(narrow, self.device).to(self.dtype).contiguous()
        # An assignment over NaN has no answer, and one such value spoils every sum it is in.
        if not all_finite(tensor):
            raise NotFiniteError(
                f"tensor {name!r} holds NaN or infinity",
                where=self.label,
                hint="leave it out with --skip, or repair the checkpoint",
            )
        with self._lock:
            self._keep(name, tensor)
        return tensor

    @cached_property
    def aside(self) -> DeviceTensors:
        """The same tensors on the CPU, of which none is kept."""
        cpu = torch.device("cpu")
        return DeviceTensors(self._source, label=self.label, device=cpu, dtype=self.dtype, limit=0)

    def release(self) -> None:
        """Forget all tensors that are kept."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, name: str, tensor: Tensor) -> None:
        # A tensor larger than the limit would push out all others and then itself.
        if name in self._kept or tensor.nbytes > self._limit:
            return
        self._kept[name] = tensor
        self._bytes += tensor.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def working_dtype(device: torch.device, *sources: TensorSource) -> torch.dtype:
    """Return float64 if any tensor is as wide, float32 otherwise: never less, whatever is stored.

    In float16 similarities overflow at 65504, and in bfloat16, with 8 bits, units tie. Values that
    float32 cannot hold are compared in float64 where they are stored so.
    mps has no float64 at all.
    """
    if device.type == "mps":
        return torch.float32
    wide = (
        s.info(name).dtype in (torch.float64, torch.complex128)
        for s in sources
        for name in s.names()
    )
    return torch.float64 if any(wide) else torch.float32


def load_models(
    sources: Sequence[TensorSource], labels: Sequence[str], device: str, memory: int
) -> list[DeviceTensors]:
    """Return models ready to be compared, all in one dtype, sharing a memory in bytes."""
    place = torch.device(device)
    dtype = working_dtype(place, *sources)
    share = memory // len(sources)
    return [
        DeviceTensors(source, label=label, device=place, dtype=dtype, limit=share)
        for source, label in zip(sources, labels, strict=True)
    ]

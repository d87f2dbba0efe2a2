"""Calls in training mode: layers that only training reads have to follow the units that they read.

Auxiliary heads, the vector in the place of hidden frames (wav2vec 2), groups of queries (RF-DETR).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

# What would change its statistics, or draw numbers unit by unit.
STILL = (_NormBase, _DropoutNd, nn.RNNBase, nn.MultiheadAttention)


class TrainingCall(NamedTuple):
    """A call of a model in training mode: its arguments, as any other call has them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@contextmanager
def calling(model: nn.Module, call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Iterator[None]:
    """Have a model ready for a call, the same each time; it stays as it was."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if isinstance(call, TrainingCall):
        with _training(model):
            yield
    else:
        yield


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Put a model into training mode without dropout, its mode and its buffers back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    stores = [(module._buffers, dict(module._buffers)) for module, _ in modes]
    buffers = [
        (b, b._version, b.clone()) for _, held in stores for b in held.values() if b is not None
    ]
    try:
        for module, _ in modes:
            module.training = not isinstance(module, STILL)
        with _WithoutDropout():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for store, held in stores:
            store.clear()
            store.update(held)
        for buffer, version, before in buffers:
            if buffer._version != version or not _alike(buffer, before):
                buffer.copy_(before)


def _alike(buffer: Tensor, before: Tensor) -> bool:
    """Return whether a buffer was left alone; what is written by `.data` has no new version."""
    return isinstance(buffer, FakeTensor) or torch.equal(buffer, before)


class _WithoutDropout(TorchFunctionMode):
    """Leaves dropout out where a model calls it as a function."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        if func is scaled_dot_product_attention:
            args = (*args[:4], *(0.0 for _ in args[4:5]), *args[5:])
            kwargs = {key: value for key, value in kwargs.items() if key != "dropout_p"}
        return func(*args, **kwargs)

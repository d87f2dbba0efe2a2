"""A device that is none: tensors of the CPU that say they are on `cuda`, with little memory.

What mixes the two devices raises, as does a result that is larger than the memory; moves to the
device, and numbers that the CPU waits for, are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
ACROSS = {"copy_", "to", "cpu", "__getitem__", "__setitem__"}  # two devices may meet in these
WAITING = {"item", "tolist", "__float__", "__bool__", "__int__", "cpu", "equal"}


class OnDevice(Tensor):
    """A tensor that says it is on the device."""


class FakeDevice(TorchFunctionMode):
    """While it is entered there is a device with some bytes for each result."""

    def __init__(self, room: int = 1 << 40) -> None:
        super().__init__()
        self.room, self.uploads = room, 0
        self.waits, self.refused = Counter[str](), Counter[str]()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in given if isinstance(tensor, OnDevice)]
        if name == "__get__":
            return self._attribute(func, args, bool(here))
        if name == "pin_memory":
            return args[0].clone()
        target = _target(name, args, kwargs, bool(here))
        apart = [t for t in given if t.dim() and not isinstance(t, OnDevice)]
        if here and apart and name not in ACROSS:
            raise RuntimeError(f"{name} of tensors on two devices")
        if here and name in WAITING:
            self.waits[name] += 1
        if here and name == "numpy":
            raise TypeError("can't convert a tensor of the device to numpy")
        if name in ("addmm_", "__matmul__", "matmul") and here:
            self._ask(name, args[0].shape[0] * given[-1].shape[-1] * args[0].itemsize)
        plain = tree_map(_plain, (tuple(args), kwargs))
        found = func(*plain[0], **plain[1])
        if name.endswith("_") and not name.endswith("__"):
            return args[0]
        if target is not CUDA:
            return found
        self.uploads += name == "to" and not here
        known = {t.untyped_storage().data_ptr() for t in map(_plain, here)}
        return tree_map(lambda leaf: self._placed(name, leaf, known), found)

    def _attribute(self, func: Callable[..., Any], args: Sequence[Any], here: bool) -> Any:
        owner: Any = getattr(func, "__self__", None)
        if owner is Tensor.device and here:
            return CUDA
        found = func(*map(_plain, args))
        return found.as_subclass(OnDevice) if here and isinstance(found, Tensor) else found

    def _placed(self, name: str, leaf: Any, known: set[int]) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.untyped_storage().data_ptr() not in known:
            self._ask(name, leaf.nbytes)
        return leaf.as_subclass(OnDevice)

    def _ask(self, name: str, size: int) -> None:
        if size > self.room:
            self.refused[name] += 1
            raise torch.OutOfMemoryError(f"{name} has no room for {size} bytes")


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.as_subclass(Tensor) if isinstance(leaf, OnDevice) else leaf


def _target(name: str, args: Sequence[Any], kwargs: dict[str, Any], here: bool) -> Any:
    """Return where a result goes."""
    if name == "cpu":
        return None
    said = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)]
    device = said[0].type if said else ("cuda" if here else "cpu")
    return CUDA if device == "cuda" else None

"""Writing the tensors of a checkpoint into a model that is built."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rebasin_cli.tensors import TensorInfo, TensorSource
from rebasin_cli.tensors.blocks import Window


def fill(model: nn.Module, source: TensorSource, windows: Mapping[str, Window]) -> None:
    """Write the tensors of a checkpoint to where they belong in a model, on its own device.

    windows: by name in the checkpoint. What the checkpoint lacks stays as it is in the model.
    """
    held = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    present = set(source.names())
    with torch.no_grad():
        for name in (name for name in windows if name in present):
            window = windows[name]
            _write(held[window.source].detach(), window, source.load(name))
    renew(model)


def renew(model: nn.Module) -> None:
    """Have a model make anew what it keeps of its parameters in eval mode; its modes stay.

    LeViT, TinyViT and others keep the biases of their attention so, until they are trained. That
    they do stands in a `train` of their own; torch's only sets a flag.
    """
    modes = [(module, module.training) for module in model.modules()]
    own = [(m, mode) for m, mode in modes if type(m).train is not nn.Module.train]
    for module, mode in own:
        module.train(not mode)
        module.train(mode)
    for module, mode in modes if own else ():
        module.training = mode


def _write(target: Tensor, window: Window, tensor: Tensor) -> None:
    """Write a window of a tensor, whatever its layout in memory is."""
    whole = target.contiguous()
    whole.as_strided(window.shape, window.strides, window.offset).copy_(tensor)
    if whole.data_ptr() != target.data_ptr():
        target.copy_(whole)


def window_of(values: Tensor, window: Window) -> Tensor:
    """Return the window of a tensor."""
    whole = values.contiguous()
    return whole.as_strided(window.shape, window.strides, window.offset).clone()


def slopes_in(model: nn.Module, windows: Mapping[str, Window]) -> dict[str, Tensor]:
    """Return the gradients that a model holds, by name in the checkpoint; some have none."""
    held = model.state_dict(keep_vars=True)
    return {
        name: window_of(slope, window)
        for name, window in windows.items()
        if (slope := held[window.source].grad) is not None
    }


def widen_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model's floating numbers float32 or float64, its complex ones pairs of that.

    `Module.to` would drop the imaginary parts.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_complex()]
    if not tensors:
        model.to(dtype)
        return
    model.double() if dtype == torch.float64 else model.float()
    for tensor in tensors:
        tensor.data = widen_tensor(tensor.data, dtype)


def widen_tensor(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a floating tensor in a real dtype, a complex one in pairs of it; others stay."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def held_infos(model: nn.Module) -> dict[str, TensorInfo]:
    """Return what is known of the tensors in a model's state dict, by name."""
    held = model.state_dict()
    return {
        name: TensorInfo(name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in held.items()
        if isinstance(tensor, Tensor)
    }


def held_ties(model: nn.Module) -> dict[str, str]:
    """Return the names of tensors that are others by another name: alias -> the first name."""
    first: dict[int, str] = {}
    ties = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and first.setdefault(id(tensor), name) != name:
            ties[name] = first[id(tensor)]
    return ties

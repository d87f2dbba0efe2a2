"""The layers of a model whose units can be measured and corrected one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

LayerObserver = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Layer:
    """A module by its name in the model: Linear (Conv1D too), any convolution, or BatchNorm."""

    name: str
    module: nn.Module

    @property
    def norm(self) -> bool:
        return isinstance(self.module, _BatchNorm)

    def samples(self, values: Tensor) -> Tensor:
        """Return an output (for a norm, an input too) as (samples, units); every place counts."""
        return values.movedim(self.axis(values), -1).flatten(0, -2)

    def axis(self, values: Tensor) -> int:
        """Return which axis of an output holds the units."""
        if isinstance(self.module, nn.Linear) or is_turned(self.module):
            return values.dim() - 1
        if isinstance(self.module, _ConvNd):
            return (
                values.dim() - len(self.module.kernel_size) - 1
            )  # without a batch it is the first
        return 1


def is_turned(layer: nn.Module) -> bool:
    """Return whether a layer is a Linear whose weight is (in, out), as GPT-2's in transformers."""
    return type(layer).__name__ == "Conv1D"


def layers_of(model: nn.Module) -> list[Layer]:
    """Return the layers of a model, in the order in which it declares them."""
    kinds = (nn.Linear, _ConvNd, _BatchNorm)
    modules = model.named_modules()
    return [Layer(name, m) for name, m in modules if isinstance(m, kinds) or is_turned(m)]


@contextlib.contextmanager
def with_hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of a block."""
    with contextlib.ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def input_hook(module: nn.Module, see: Callable[[Tensor], object]) -> RemovableHandle:
    """Show `see` what a module is called with first, by place or by name, before it reads it."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
        see(args[0] if args else next(iter(kwargs.values())))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def observe_layers(
    layers: Sequence[Layer], see: LayerObserver
) -> contextlib.AbstractContextManager[None]:
    """Show `see` the output of each layer whenever it is called: its name, the tensor."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: see(name, output)

    return with_hooks(layer.module.register_forward_hook(hook(layer.name)) for layer in layers)


@contextlib.contextmanager
def frozen_state(model: nn.Module) -> Iterator[None]:
    """Keep modes and buffers as they are, whatever a pass does to them."""
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
        with torch.no_grad():
            _restore(dict(model.named_buffers()), buffers)


def _restore(held: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    for name, buffer in held.items():
        buffer.copy_(before[name])

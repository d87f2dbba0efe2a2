"""Layers whose weights least squares can find: what they multiply by what, as matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from rebasin_cli.network.layers import is_turned
from rebasin_cli.tensors.blocks import Window

_PLAIN = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


@dataclass(frozen=True)
class SolvableLayer:
    """A layer by its name in the model. weight, bias: the names of its tensors in checkpoints."""

    name: str
    weight: str
    bias: str | None

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class SolvableLayers:
    """Layers that can be solved, and why those of other modules with matrices cannot."""

    layers: tuple[SolvableLayer, ...]
    others: Mapping[str, str]


def solvable_layers(
    model: nn.Module, windows: Mapping[str, Window], usable: Callable[[str], bool]
) -> SolvableLayers:
    """Return the layers of a model that can be solved.

    windows: where each tensor of a checkpoint lies in the model. usable: takes the names of tensors
    in the checkpoint that are averaged, and are real.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {
        window.source: name
        for name, window in windows.items()
        if window.shape == shapes.get(window.source)
    }
    holders = _holders(model)
    layers, others = [], {}
    for name, module in model.named_modules():
        if not _holds_matrix(module):
            continue
        prefix = f"{name}." if name else ""
        own = [prefix + key for key, _ in module.named_parameters(recurse=False)]
        why = _reason(module) or _why_tied(name, module, holders)
        if not why and not all(n in stored and usable(stored[n]) for n in own):
            why = "its tensors are not averaged whole"
        if why:
            others[name] = why
        else:
            bias = stored.get(f"{prefix}bias") if f"{prefix}bias" in own else None
            layers.append(SolvableLayer(name, stored[f"{prefix}weight"], bias))
    return SolvableLayers(tuple(layers), others)


def _holds_matrix(module: nn.Module) -> bool:
    """Return whether a module has a weight of two axes, its own or computed from its parts."""
    own = module.parameters(recurse=is_parametrized(module))
    return not isinstance(module, ParametrizationList) and any(p.dim() > 1 for p in own)


def _reason(module: nn.Module) -> str:
    """Return why the weights of a module are no least-squares problem; empty if they are."""
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution"
    if not (isinstance(module, nn.Linear | _ConvNd) or is_turned(module)):
        return f"{type(module).__name__} is no linear layer or convolution"
    if is_parametrized(module) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    if type(module).forward not in _PLAIN and not is_turned(module):
        return f"{type(module).__name__} has a forward of its own"
    return ""


def _holders(model: nn.Module) -> dict[int, set[str]]:
    """Return the modules that hold each parameter, by its identity."""
    found: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    return found


def _why_tied(name: str, module: nn.Module, holders: Mapping[int, set[str]]) -> str:
    others = {o for p in module.parameters(recurse=False) for o in holders[id(p)]} - {name}
    return f"it shares parameters with {min(others)}" if others else ""


def rows_read(module: nn.Module, values: Tensor) -> Tensor:
    """Return what a layer multiplies its weights with: (groups, samples, d).

    Of a convolution each place of its output is a sample, and d runs over channels of one group and
    the kernel, as in its weight.
    """
    if not isinstance(module, _ConvNd):
        return values.flatten(0, -2)[None]
    count = len(module.kernel_size)
    values = values if values.dim() == count + 2 else values[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    values = F.pad(values, module._reversed_padding_repeated_twice, mode=mode)
    sizes = zip(module.kernel_size, module.dilation, module.stride, strict=True)
    for axis, (size, spread, stride) in enumerate(sizes, 2):
        window = (size - 1) * spread + 1
        values = values.unfold(axis, window, stride)[..., ::spread]
    # (samples, channels, places..., kernel...) -> (channels, samples, places..., kernel...)
    swapped = values.transpose(0, 1)
    channels = swapped.reshape(module.groups, len(swapped) // module.groups, *swapped.shape[1:])
    # (groups, channels, samples, places..., kernel...) -> channels beside the kernel
    return channels.movedim(1, count + 2).flatten(count + 2).flatten(1, count + 1)


def as_matrix(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a layer's weight as (groups, outputs, d), so that it fits `rows_read`."""
    if is_turned(module):
        return weight.T[None]
    groups = module.groups if isinstance(module, _ConvNd) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def as_weight(module: nn.Module, matrix: Tensor, like: Tensor) -> Tensor:
    """Return what `as_matrix` was given. like: a weight of the same shape."""
    return matrix[0].T if is_turned(module) else matrix.reshape(like.shape)

"""The user's model with layers of other widths, whatever its constructor can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from rebasin_cli.errors import UsageError
from rebasin_cli.models.module_weights import held_infos
from rebasin_cli.models.subject import bare_model
from rebasin_cli.network.network import Network
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window

Shape = tuple[int, ...]


def resized_network(network: Network, shapes: Mapping[str, Shape]) -> Network:
    """Return a network whose model is built with other shapes of some tensors.

    shapes: by the name of the tensor in the checkpoint. Raises UsageError for one that is a part
    of a tensor of the model.
    """
    subject, windows = network.subject, dict(network.windows)
    held = held_infos(bare_model(subject))
    sources = {}
    for name, shape in shapes.items():
        source = windows[name].source
        if windows[name] != Window.whole(held[source]):
            raise UsageError(
                f"{name} is a part of {source!r} in {subject.name}, which cannot be made wider",
                hint="the arguments with which the class builds the wider model can be given",
            )
        sources[source] = shape
        windows[name] = Window.whole(TensorInfo(source, shape, torch.float32))

    def build() -> nn.Module:
        return resize_model(subject.build(), sources)

    return Network(replace(subject, build=build), windows)


def resize_model(model: nn.Module, sources: Mapping[str, Shape]) -> nn.Module:
    """Give tensors of a model other shapes, in place; one of two names stays one."""
    held = model.state_dict(keep_vars=True)
    wide = {id(held[name]): _empty(held[name], shape) for name, shape in sources.items()}
    for module in model.modules():
        held_by: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for slots in held_by:
            for key, tensor in slots.items():
                if tensor is not None and id(tensor) in wide:
                    slots[key] = wide[id(tensor)]
        _count_units(module)
    return model


def _empty(like: Tensor, shape: Shape) -> Tensor:
    found = like.detach().new_zeros(shape)
    return nn.Parameter(found) if isinstance(like, nn.Parameter) else found


def _count_units(module: nn.Module) -> None:
    """Let a layer say how wide it is."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        _count_channels(module)
    elif isinstance(module, _NormBase):
        held = module.running_mean if module.weight is None else module.weight
        module.num_features = module.num_features if held is None else len(held)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]


def _count_channels(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if depthwise and not module.transposed and second == 1:
        multiplier = module.out_channels // module.in_channels
        module.groups = module.in_channels = first // multiplier
        module.out_channels = first
    elif module.groups == 1:
        ends = (first, second) if module.transposed else (second, first)
        module.in_channels, module.out_channels = ends

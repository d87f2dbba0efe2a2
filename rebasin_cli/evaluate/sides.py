"""What the modules of a model do with units: which axes of their tensors write them, which read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebasin_cli.spec.sides import SPREAD, Sides
from rebasin_cli.spec.symmetry import READ, WRITE
from rebasin_cli.tensors import Window

Axes = tuple[str | None, ...]


def sides_of(model: nn.Module, windows: Mapping[str, Window]) -> Sides:
    """Return the sides of a checkpoint's tensors, of those that belong to modules of known kinds.

    windows: where each tensor of the checkpoint lies in the model; parts of one are left out.
    A tensor of two modules (tied weights) has the sides that both give it. Vectors write: they are
    biases, scales and statistics of what is written.
    """
    known = model_sides(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        name: known[window.source]
        for name, window in windows.items()
        if window.source in known and window.shape == shapes.get(window.source)
    }


def model_sides(model: nn.Module) -> dict[str, Axes]:
    """Return the sides of a model's own tensors."""
    said: defaultdict[int, list[Axes]] = defaultdict(list)
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in held:
            said[id(tensor)].append(_axes(module, name, tensor.dim()))
            names[f"{prefix}.{name}" if prefix else name] = id(tensor)
    return {name: _agreed(said[number]) for name, number in names.items()}


def _axes(module: nn.Module, name: str, dims: int) -> Axes:
    """Return the sides of one tensor of a module."""
    if isinstance(module, _NormBase) and name == "running_var":
        return (SPREAD,)
    if dims == 1:
        return (WRITE,)
    unknown: Axes = (None,) * dims
    return next((axes + unknown[len(axes) :] for axes in _known(module, name)), unknown)


def _known(module: nn.Module, name: str) -> Iterator[Axes]:
    """Yield the first axes of a tensor of a known kind."""
    if name != "weight":
        return
    if isinstance(module, nn.Linear):
        yield (WRITE, READ)
    elif isinstance(module, _ConvNd) and module.groups == 1:
        yield (READ, WRITE) if isinstance(module, _ConvTransposeNd) else (WRITE, READ)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield (None, WRITE)


def _agreed(said: list[Axes]) -> Axes:
    """Return for each axis what all modules say of it, None where they differ."""
    return tuple(axis[0] if len(set(axis)) == 1 else None for axis in zip(*said, strict=True))

"""Which groups stand on plain axes that clearly write or read their units.

A permutation moves every axis of a group alike. A linear map does not: what writes units is
multiplied by it, what reads them by its inverse.

That a tensor is taken for another kind costs `spec.binding.axis_sides` a check, and a linear map
the function: here the modules of a live model say what their tensors are, not the positions of
axes, and what a module of another kind does is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebasin_cli.spec.binding.axis_sides import READ, WRITE, Side, axis_of
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors.blocks import BoundTensor, Dim, Window

SPREAD = Side.SPREAD


Sides = Mapping[str, Sequence[Side | None]]


"""What each axis of a tensor does with units: WRITE, READ, SPREAD, or None: not known."""


@dataclass(frozen=True)
class Mappable:
    """Groups to which a linear map can be applied; the others, with a reason each."""

    groups: tuple[str, ...]
    others: Mapping[str, str]


def mappable(
    groups: Iterable[BoundGroup], tensors: Sequence[BoundTensor], sides: Sides
) -> Mappable:
    """Return which groups have a clear side everywhere, and no order inside others or others in it.

    sides: of the tensors of which they are known, by the name of the tensor.
    """
    groups = tuple(groups)
    others: dict[str, str] = {}
    for group in groups:
        for parent in group.parents:
            others[group.name] = f"it has an order of its own for each {parent}"
            others.setdefault(parent, f"{group.name} has an order of its own for each of its units")
    for tensor in tensors:
        for name, why in _unclear(tensor, sides):
            others.setdefault(name, why)
    names = [group.name for group in groups]
    clear = tuple(name for name in names if name not in others)
    return Mappable(clear, {name: others[name] for name in names if name in others})


def _unclear(tensor: BoundTensor, sides: Sides) -> Iterator[tuple[str, str]]:
    name = tensor.members[0]
    for dim in (dim for block in tensor.blocks for dim in block.dims if dim.group is not None):
        if tensor.stacked:
            yield str(dim.group), f"it stands on {name}, one tensor of a stack"
        elif side_of(tensor, dim, sides) is None:
            yield str(dim.group), f"whether {name} writes or reads its units is not clear"


def side_of(tensor: BoundTensor, dim: Dim, sides: Sides) -> Side | None:
    """Return what the axis of a tensor that a dimension lies on does; None: not known."""
    axis, known = axis_of(tensor, dim), sides.get(tensor.members[0], ())
    return known[axis] if axis is not None and axis < len(known) else None


AxisNames = tuple[Side | None, ...]


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


def model_sides(model: nn.Module) -> dict[str, AxisNames]:
    """Return the sides of a model's own tensors."""
    said: defaultdict[int, list[AxisNames]] = defaultdict(list)
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in held:
            said[id(tensor)].append(_axes(module, name, tensor.dim()))
            names[f"{prefix}.{name}" if prefix else name] = id(tensor)
    return {name: _agreed(said[number]) for name, number in names.items()}


def _axes(module: nn.Module, name: str, dims: int) -> AxisNames:
    """Return the sides of one tensor of a module."""
    if isinstance(module, _NormBase) and name == "running_var":
        return (SPREAD,)
    if dims == 1:
        return (WRITE,)
    unknown: AxisNames = (None,) * dims
    return next((axes + unknown[len(axes) :] for axes in _known(module, name)), unknown)


def _known(module: nn.Module, name: str) -> Iterator[AxisNames]:
    """Yield the first axes of a tensor of a known kind."""
    if name != "weight":
        return
    if isinstance(module, nn.Linear):
        yield (WRITE, READ)
    elif isinstance(module, _ConvNd) and module.groups == 1:
        yield (READ, WRITE) if isinstance(module, _ConvTransposeNd) else (WRITE, READ)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield (None, WRITE)


def _agreed(said: list[AxisNames]) -> AxisNames:
    """Return for each axis what all modules say of it, None where they differ."""
    return tuple(axis[0] if len(set(axis)) == 1 else None for axis in zip(*said, strict=True))

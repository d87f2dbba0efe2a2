"""Groups whose units may stand twice in a merged model, and why those of others may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides, mappable
from rebasin_cli.commands.merge.linear_maps.readers import Reader, readers_of
from rebasin_cli.spec.binding.axis_sides import axis_of
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors.blocks import BoundTensor, Window

# What these do to a unit depends on no other, or they add units up.
_UNIT_BY_UNIT = (nn.Linear, _ConvNd, _NormBase, nn.PReLU, nn.Embedding, nn.EmbeddingBag)
_JOINT = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class GrowableGroups:
    """Groups that may become wider, each with a layer that reads it, and why others may not."""

    readers: Mapping[str, Reader]
    others: Mapping[str, str]


def growable_groups(
    choice: Choice,
    sides: Sides,
    model: nn.Module,
    windows: Mapping[str, Window],
    averaged: Callable[[str], bool],
) -> GrowableGroups:
    """Return which groups may become wider. averaged: takes tensors that are, by their names."""
    bound = choice.bound
    free = [g for g in bound.groups.values() if g.root in choice.movable and not g.fixed]
    found = mappable(free, bound.tensors, sides)
    fixed = [g for g in bound.groups.values() if g not in free and g.size > 1]
    others = {**{g.name: "its units may not be moved" for g in fixed}, **found.others}
    for tensor in bound.tensors:
        for group, why in _obstacles(tensor, model, windows, averaged):
            others.setdefault(group, why)
    clear = [group for group in found.groups if group not in others]
    readers = readers_of(clear, bound.tensors, sides)
    unread = {g: "no layer of a known kind reads its units" for g in clear if g not in readers}
    return GrowableGroups({g: readers[g] for g in clear if g in readers}, {**others, **unread})


def _obstacles(
    tensor: BoundTensor,
    model: nn.Module,
    windows: Mapping[str, Window],
    averaged: Callable[[str], bool],
) -> Iterator[tuple[str, str]]:
    """Yield the groups that cannot become wider because of one tensor."""
    name, why = tensor.members[0], ""
    if not averaged(name):
        why = f"{name} is not averaged"
    elif len(tensor.blocks) > 1 or _crowded(tensor):
        why = f"it shares an axis of {name} with other units"
    elif name in windows:
        why = _of_module(model, windows[name].source)
    for group in tensor.groups if why else ():
        yield group, why


def _crowded(tensor: BoundTensor) -> bool:
    """Return whether two groups stand on one axis; a sign, one for each unit, takes no place."""
    dims = [dim for block in tensor.blocks for dim in block.dims if dim.group and dim.size > 1]
    axes = [axis_of(tensor, dim) for dim in dims]
    return len(axes) > len(set(axes))


def _of_module(model: nn.Module, source: str) -> str:
    """Return why what a module does to units is not done to each on its own; empty if it is."""
    owner = source.rpartition(".")[0]
    module = model.get_submodule(owner)
    kind = type(module).__name__
    if isinstance(module, _JOINT):
        return f"{owner or 'the model'} ({kind}) norms all its units together"
    if isinstance(module, _UNIT_BY_UNIT):
        return ""
    return f"what {owner or 'the model'} ({kind}) does with its units is not known"

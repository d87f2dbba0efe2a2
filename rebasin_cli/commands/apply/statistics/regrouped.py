"""Permutations of the groups of one spec, said of the groups of another for the same tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from rebasin_cli.commands.apply.movement import Reordering
from rebasin_cli.errors import PermutationError
from rebasin_cli.permutation import Permutation, identity, parent_axis
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import BoundTensor


def regrouped_permutations(movement: Reordering, bound: BoundSpec) -> dict[str, Permutation]:
    """Return what permutations do to the groups of another spec, whatever their own are called.

    Raises PermutationError where they tear a group apart. That they do nothing else is not looked
    at: compare the tensors of both.
    """
    found: dict[str, Permutation] = {}
    for tensor in bound.tensors:
        new = [name for name in tensor.groups if name not in found and not bound.groups[name].fixed]
        if new:
            origins = _origins(tensor, movement)
            for name in new:
                found[name] = _permutation(bound.groups[name], tensor, origins)
    rest = (group for name, group in bound.groups.items() if name not in found)
    return {**found, **{g.name: identity(g.shape, g.parents) for g in rest}}


def _origins(tensor: BoundTensor, movement: Reordering) -> Tensor:
    """Return, at every place of a moved tensor, the place of what came there, as a flat index."""
    places = torch.arange(prod(tensor.shape)).view(tensor.shape)
    members = places.unbind(0) if tensor.stacked else (places,)
    held = InMemory(dict(zip(tensor.members, members, strict=True)))
    try:
        moved = Permuted(held, movement.tensors, movement.permutations)
        found = [moved.load(name) for name in tensor.members]
    except (KeyError, RuntimeError) as error:
        raise _torn(tensor.members[0]) from error
    return torch.stack(found) if tensor.stacked else found[0]


def _permutation(group: BoundGroup, tensor: BoundTensor, origins: Tensor) -> Permutation:
    """Return where the units of a group came from, as one of its blocks shows."""
    block = next(b for b in tensor.blocks if group.name in b.groups)
    axis = block.groups.index(group.name)
    before = torch.full((origins.numel(),), -1)
    block.view(before).copy_(_along(axis, block.shape))
    source = before[block.view(origins.contiguous())]
    axes = [*(parent_axis(block.groups, axis, parent) for parent in group.parents), axis]
    rows = source.movedim(axes, list(range(len(axes)))).reshape(*group.shape, -1)
    index = rows[..., 0]
    if not bool((rows == index[..., None]).all()):
        raise _torn(group.name)
    try:
        return Permutation(index.contiguous(), group.parents)
    except PermutationError as error:
        raise _torn(group.name) from error


def _along(axis: int, shape: Sequence[int]) -> Tensor:
    """Return the index along one dimension, at every place."""
    sizes = [shape[axis] if k == axis else 1 for k in range(len(shape))]
    return torch.arange(shape[axis]).view(sizes).expand(*shape)


def _torn(name: str) -> PermutationError:
    return PermutationError(
        f"the permutation moves single units of {name!r} that stay together in the statistics",
        hint="the two are of other specs: measure the permuted model with rebasin statistics",
    )

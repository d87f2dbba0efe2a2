"""The proof of a spec: permuting a network in every group at once leaves its outputs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from rebasin_cli.permutation import Permutation
from rebasin_cli.permuted import take_member
from rebasin_cli.spec.binding.bound import BoundSpec, draw_permutations
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Block, BoundTensor
from rebasin_cli.tensors.compare import SAME_IN_FLOAT64, relative_difference
from tests.models import Inputs, outputs

EXACT = SAME_IN_FLOAT64
BROKEN = 1e-4  # relative; the weakest wrong axis, a norm deep in a resnet101, makes 5e-4


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state dict as a file holds it: a tied tensor once."""
    seen: set[int] = set()
    state = {}
    for name, values in model.state_dict().items():
        if values.data_ptr() not in seen:
            state[name] = values.clone()
        seen.add(values.data_ptr())
    return state


def draw(bound: BoundSpec, seed: int) -> dict[str, Permutation]:
    """Return a random permutation for every group of a spec that is not fixed."""
    return draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed))


def permuted(
    state: Mapping[str, Tensor],
    tensors: Iterable[BoundTensor],
    permutations: Mapping[str, Permutation],
) -> dict[str, Tensor]:
    """Return the members of bound tensors, permuted."""
    source = InMemory(state)
    return {
        name: take_member(source, tensor, position, permutations)
        for tensor in tensors
        for position, name in enumerate(tensor.members)
    }


def difference(
    model: nn.Module, inputs: Inputs, bound: BoundSpec, permutations: Mapping[str, Permutation]
) -> float:
    """Permute the model in place and return by how much its outputs change."""
    before = outputs(model, inputs)
    overwrite(model, permuted(stored(model), bound.tensors, permutations))
    return change(before, outputs(model, inputs))


def corrupted(
    model: nn.Module, inputs: Inputs, bound: BoundSpec, permutations: Mapping[str, Permutation]
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield specs in which one tensor has lost one group: a label, and what measures its effect.

    A group of one tensor, as the dims of fused queries and keys without biases, just stays then.
    """
    before, state = outputs(model, inputs), stored(model)
    right = permuted(state, bound.tensors, permutations)
    overwrite(model, right)

    def effect(wrong: BoundTensor) -> float:
        overwrite(model, permuted(state, [wrong], permutations))
        after = outputs(model, inputs)
        overwrite(model, {name: right[name] for name in wrong.members})
        return change(before, after)

    count = Counter(group for tensor in bound.tensors for group in tensor.groups)
    for tensor in bound.tensors:
        told = (g for g in tensor.groups if count[g] > 1 and not bound.groups[g].fixed)
        for name in sorted(told):
            lost = {g for g, group in bound.groups.items() if name in (g, *group.parents)}
            yield f"{tensor.members[0]} without {name}", partial(effect, _without(tensor, lost))


def overwrite(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write new values into some of a model's tensors."""
    live = model.state_dict()
    for name, value in values.items():
        live[name].copy_(value)


def change(before: Tensor, after: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return relative_difference(before, after)


def _without(tensor: BoundTensor, lost: set[str]) -> BoundTensor:
    """Return a tensor whose dimensions of some groups are fixed instead."""
    blocks = []
    for block in tensor.blocks:
        dims = (replace(dim, group=None) if dim.group in lost else dim for dim in block.dims)
        blocks.append(Block(block.offset, tuple(dims)))
    return replace(tensor, blocks=tuple(blocks))

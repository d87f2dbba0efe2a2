"""The proof of a spec: permuting a network in every group at once leaves its outputs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from rebasin_cli.permutation import Permutation, shuffled, take_member
from rebasin_cli.spec import BoundSpec
from rebasin_cli.tensors import Block, BoundTensor, InMemory
from tests.models import Inputs, outputs

EXACT = 1e-10  # relative, in float64: only the order of additions differs
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
    """Return a random permutation for every group of a spec."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: shuffled(group.shape, group.parents, generator)
        for name, group in bound.groups.items()
    }


def permuted(
    state: Mapping[str, Tensor], bound: BoundSpec, permutations: Mapping[str, Permutation]
) -> dict[str, Tensor]:
    """Return the state dict with every tensor of the spec permuted."""
    source, result = InMemory(state), dict(state)
    for tensor in bound.tensors:
        for position, name in enumerate(tensor.members):
            result[name] = take_member(source, tensor, position, permutations)
    return result


def difference(
    model: nn.Module, inputs: Inputs, bound: BoundSpec, permutations: Mapping[str, Permutation]
) -> float:
    """Return by how much the outputs change, relative to the largest; the model is put back."""
    before, state = outputs(model, inputs), stored(model)
    model.load_state_dict(permuted(state, bound, permutations), strict=False)
    after = outputs(model, inputs)
    model.load_state_dict(state, strict=False)
    return float((after - before).abs().max() / before.abs().max())


def corruptions(bound: BoundSpec) -> Iterator[tuple[str, BoundSpec]]:
    """Yield specs in which one tensor has lost one group, each with a label."""
    for number, tensor in enumerate(bound.tensors):
        for name in sorted(tensor.groups):
            lost = {g for g, group in bound.groups.items() if name in (g, *group.parents)}
            wrong = _without(tensor, lost)
            tensors = (*bound.tensors[:number], wrong, *bound.tensors[number + 1 :])
            yield f"{tensor.members[0]} without {name}", replace(bound, tensors=tensors)


def _without(tensor: BoundTensor, lost: set[str]) -> BoundTensor:
    """Return a tensor whose dimensions of some groups are fixed instead."""
    blocks = []
    for block in tensor.blocks:
        dims = (replace(dim, group=None) if dim.group in lost else dim for dim in block.dims)
        blocks.append(Block(block.offset, tuple(dims)))
    return replace(tensor, blocks=tuple(blocks))

"""What searching for maps takes of memory: models whole, or tensors as they are needed."""

from __future__ import annotations

from math import prod

import torch

from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.family_solution import AT_ONCE
from rebasin_cli.symmetry.voting_blocks import tensors_at

COPIES = 3  # of a model: the reference, the other, and what of it is being moved
WORD = torch.float64.itemsize
LOADING = 5  # of a tensor: of the reference, of the other, and what folding and moving it takes
SQUARES = 4  # of a family's units: its similarities and what they are worth, and to solve for them
SIGN_SQUARES = 2  # more where units have signs: similarities of what these turn, and their size


def whole_memory(bound: BoundSpec) -> int:
    """Return the bytes of searching with both models in memory, in float64."""
    return COPIES * WORD * sum(prod(tensor.shape) for tensor in bound.tensors if tensor.votes)


def search_memory(bound: BoundSpec) -> int:
    """Return the peak of such a search: the copies, and one more while models are folded."""
    return whole_memory(bound) * (COPIES + 1) // COPIES


def streamed_memory(bound: BoundSpec, dtype: torch.dtype) -> int:
    """Return the bytes of searching with the blocks of one family in memory.

    dtype: of products; see `product_dtype`.
    """
    visits = (_visit_memory(family, dtype.itemsize) for family in families(bound).values())
    return max(visits, default=0)


def _visit_memory(family: GroupFamily, word: int) -> int:
    """Return the bytes that a visit of a family takes: the largest tensor, and its similarities.

    word: bytes of a number in products; maps are solved for in float64.
    """
    tensors = [prod(tensor.shape) for tensor in tensors_at(family.sites)]
    loading = LOADING * word * max(tensors, default=0)
    size = family.members[0].size
    widest = max(prod(chain.shape[1:]) for chain in family.chains())
    if widest == 1:  # units alone, or with a sign each
        squares = SQUARES + SIGN_SQUARES * (len(family.chains()) - 1)
        return loading + WORD * squares * size**2
    pairs = min(size * max(1, AT_ONCE // (size * widest**2)), size**2) * widest**2
    return loading + 2 * word * sum(tensors) + WORD * SQUARES * pairs


def fits_whole(bound: BoundSpec, max_memory: int) -> bool:
    """Return whether both models fit into memory, which is the faster way."""
    return whole_memory(bound) <= max_memory

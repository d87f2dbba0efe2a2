"""Where groups occur: blocks of voting tensors as arrays with one dimension for each chain.

A chain is what one family owns along a block: a group, with the groups nested in it (heads
and the dims inside them). Its dimensions are flattened into one, so that every permutation of
the family is one index along it, and everything fixed into the last dimension.

Head order p (h,) and an order q[i] (d,) for each place i give the index p[i] d + q[i, a] at place
i d + a: unit q[i, a] of head p[i] goes there. Everything that follows (products, differences of
few units, soft permutations) can then treat a nest as if it were one group of h d units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rebasin_cli.permutation import Permutations, gather, parent_axis
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor


@dataclass(frozen=True)
class Chain:
    """Dimensions of a block that one family owns, root first, parents before children.

    shape: their sizes; axes: where they are in the block.
    """

    groups: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    def nested(self, groups: Mapping[str, BoundGroup]) -> bool:
        """Return whether each group lies directly in the one before it, and none occurs twice."""
        inner = zip(self.groups, self.groups[1:], strict=False)
        return all(groups[child].parents[-1] == parent for parent, child in inner)

    def order(self, permutations: Permutations) -> Tensor:
        """Return the int64 (size,) index that the permutations are along the flattened chain.

        The reordered array is array[index]. Numbering the units and reordering the numbers gives
        it for nests of any depth, by the same `gather` that permutes tensors.
        """
        if len(self.groups) == 1 and self.groups[0] in permutations:
            return permutations[self.groups[0]].index
        units = torch.arange(self.size).reshape(self.shape)
        return gather(units, self.groups, permutations).reshape(-1)


@dataclass(frozen=True)
class Site:
    """A block of a voting tensor, and the chains that meet in it, in the order of their axes."""

    tensor: BoundTensor
    block: Block
    chains: tuple[Chain, ...]

    @property
    def numel(self) -> int:
        return self.block.numel

    def array(self, source: TensorSource) -> Tensor:
        """Return the block of a model as (*chain sizes, m); a view where its layout allows it."""
        owned = [axis for chain in self.chains for axis in chain.axes]
        rest = [axis for axis in range(len(self.block.dims)) if axis not in owned]
        view = self.block.view(self.tensor.load(source)).permute(*owned, *rest)
        return view.reshape(*(chain.size for chain in self.chains), -1)


def site_of(tensor: BoundTensor, block: Block, groups: Mapping[str, BoundGroup]) -> Site:
    """Return a block with its chains."""
    chains = [
        Chain(
            tuple(block.groups[axis] or "" for axis in axes),
            tuple(block.shape[axis] for axis in axes),
            axes,
        )
        for root in roots_in(block, groups)
        for axes in occurrences(block.groups, root, groups)
    ]
    return Site(tensor, block, tuple(sorted(chains, key=lambda chain: chain.axes)))


def roots_in(block: Block, groups: Mapping[str, BoundGroup]) -> list[str]:
    """Return the roots of the families that own a dimension of a block, each once."""
    return list(dict.fromkeys(groups[name].root for name in block.groups if name))


def occurrences(
    owners: Sequence[str | None], root: str, groups: Mapping[str, BoundGroup]
) -> list[tuple[int, ...]]:
    """Return, for each dimension that `root` owns, that dimension and those of its descendants.

    owners: the group of each dimension. Dimensions are listed root first, then by depth: the
    order in which they are solved. A root that owns two dimensions (a square weight on a residual
    stream) has two, and each descendant belongs to the one that its own parent belongs to.
    """
    found: dict[int, list[int]] = {k: [k] for k, name in enumerate(owners) if name == root}
    below = [k for k, name in enumerate(owners) if name and root in groups[name].parents]
    for axis in sorted(below, key=lambda k: (len(groups[owners[k] or ""].parents), k)):
        found[_root_axis(axis, owners, root, groups)].append(axis)
    return [tuple(axes) for axes in found.values()]


def _root_axis(
    axis: int, owners: Sequence[str | None], root: str, groups: Mapping[str, BoundGroup]
) -> int:
    while owners[axis] != root:
        axis = parent_axis(owners, axis, groups[owners[axis] or ""].parents[-1])
    return axis


def as_rows(array: Tensor, position: int) -> Tensor:
    """Return an array as a matrix with one of its dimensions in front: (n, everything else).

    Two arrays treated alike have their columns in the same order, whatever that is.
    """
    moved = array.movedim(position, 0)
    return moved.reshape(len(moved), -1)


def reorder(array: Tensor, orders: Sequence[Tensor | None]) -> Tensor:
    """Return an array with an index taken along each of its first dimensions; None: as it is."""
    for position, order in enumerate(orders):
        if order is not None:
            array = array.index_select(position, order)
    return array


def chain_orders(
    chains: Sequence[Chain],
    orders: Mapping[tuple[str, ...], Tensor],
    *,
    position: int | None = None,
) -> list[Tensor | None]:
    """Return the order of every chain, None for the one at a position."""
    return [None if k == position else orders[chain.groups] for k, chain in enumerate(chains)]

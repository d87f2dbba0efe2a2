"""Maps of the units of groups: permutations, and orthogonal matrices, one for each parent unit.

All maps here are orthogonal, so that what writes units and what reads them is moved alike: a
writer W becomes Q W and a reader R becomes R Q^-1 = R Q', which along its own axis is Q again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.permutation import Permutation, Permutations, gather, parent_axis
from rebasin_cli.permutation import inverse as inverse_permutations
from rebasin_cli.permuted import take
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor, ByTensor
from rebasin_cli.tensors.numbers import in_reals

PIECE = 1 << 22  # numbers that are mapped at once: 32 MB


@dataclass(frozen=True, eq=False)
class OrthogonalMap:
    """An orthogonal matrix for every combination of indices of the parent groups.

    matrix: float64 (*parent sizes, n, n): unit a of the result is the sum over b of
    matrix[..., a, b] times unit b. Rows of parents are those of the result, as in a Permutation.
    """

    matrix: Tensor
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupMaps:
    """What is done to each group: units are put in order first, and then mapped inside."""

    permutations: Permutations
    linear: Mapping[str, OrthogonalMap]

    def then(self, later: GroupMaps) -> GroupMaps:
        """Return the maps that act like these, and then like `later`, which may lack groups.

        With P the order and M the matrix of a group inside it, M' P' M P = (M' . P'(M)) (P' P):
        the later order moves the earlier matrices along with the units that they are inside of.
        """
        order = {**_identities(self.permutations), **later.permutations}
        permutations = {
            name: replace(p, index=gather(p.index, (*p.parents, name), order))
            for name, p in self.permutations.items()
        }
        linear = {
            name: replace(m, matrix=_times(later.linear.get(name), _reorder_matrices(m, order)))
            for name, m in self.linear.items()
        }
        return GroupMaps(permutations, linear)

    def to(self, device: str) -> GroupMaps:
        """Return the same maps on a device."""
        permutations = {
            name: replace(p, index=p.index.to(device)) for name, p in self.permutations.items()
        }
        linear = {name: replace(m, matrix=m.matrix.to(device)) for name, m in self.linear.items()}
        return GroupMaps(permutations, linear)

    def inverse(self) -> GroupMaps:
        """Return the maps that undo these: (M P)^-1 = P^-1 M' = (P^-1(M')) P^-1."""
        back = inverse_permutations(self.permutations)
        linear = {
            name: _reorder_matrices(replace(m, matrix=m.matrix.mT.contiguous()), back)
            for name, m in self.linear.items()
        }
        return GroupMaps(back, linear)


NO_MAPS = GroupMaps({}, {})  # of no group: nothing is moved


def _identities(permutations: Permutations) -> dict[str, Permutation]:
    units = {
        name: torch.arange(p.index.shape[-1], device=p.index.device)
        for name, p in permutations.items()
    }
    return {
        name: replace(p, index=units[name].expand_as(p.index).contiguous())
        for name, p in permutations.items()
    }


def _reorder_matrices(linear: OrthogonalMap, permutations: Permutations) -> OrthogonalMap:
    return replace(
        linear, matrix=gather(linear.matrix, (*linear.parents, None, None), permutations)
    )


def _times(later: OrthogonalMap | None, earlier: OrthogonalMap) -> Tensor:
    return earlier.matrix if later is None else later.matrix @ earlier.matrix


def carry(
    values: Tensor, tensor: BoundTensor, maps: GroupMaps, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return a tensor (of a stack: of all its members) with its units mapped.

    Exact where only permutations act; otherwise computed and returned in `dtype`.
    """
    moved = take(values, tensor, maps.permutations)
    if not tensor.groups & maps.linear.keys():
        return moved
    source = in_reals(moved).to(dtype).contiguous()
    result = source.clone()  # apart from what is read, so that gradients by the maps can be taken
    for block in tensor.blocks:
        views = block.view(source), block.view(result)
        for here, there in zip(*(_pieces(view, block.groups) for view in views), strict=True):
            there.copy_(map_axes(here, block.groups, maps.linear))
    return result


def _pieces(view: Tensor, groups: Sequence[str | None]) -> Sequence[Tensor]:
    """Return a block cut along an axis that no group owns, if it has one and is large.

    What is computed of an embedding is then not another copy of all of it.
    """
    if view.numel() <= PIECE or None not in groups:
        return (view,)
    axis = groups.index(None)
    return torch.tensor_split(view, -(-view.numel() // PIECE), axis)


def map_axes(
    values: Tensor, groups: Sequence[str | None], linear: Mapping[str, OrthogonalMap]
) -> Tensor:
    """Return values with each dimension mapped by the matrices of the group that owns it."""
    for axis, name in enumerate(groups):
        if name is not None and name in linear:
            values = _map_axis(values, axis, groups, linear[name])
    return values


def _map_axis(
    values: Tensor, axis: int, groups: Sequence[str | None], linear: OrthogonalMap
) -> Tensor:
    front = [*(parent_axis(groups, axis, parent) for parent in linear.parents), axis]
    places = list(range(len(front)))
    moved = values.movedim(front, places)
    lead = moved.shape[: len(front)]
    matrix = linear.matrix.to(values.device, values.dtype)
    mapped = matrix @ moved.reshape(*lead, -1)
    return mapped.reshape(moved.shape).movedim(places, front)


class Carried(ByTensor):
    """A TensorSource whose tensors are mapped as they are loaded, computed in `dtype`."""

    def __init__(
        self,
        source: TensorSource,
        tensors: Sequence[BoundTensor],
        maps: GroupMaps,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        moved = maps.linear.keys() | {n for n, p in maps.permutations.items() if p.moved}
        super().__init__(source, (tensor for tensor in tensors if tensor.groups & moved))
        self._maps, self._dtype = maps, dtype

    def _remade(self, tensor: BoundTensor) -> Tensor:
        return carry(tensor.load(self._source), tensor, self._maps, dtype=self._dtype)

"""Arrays of one form in one array, so that many small ones cost hardly more than a large one.

A network of 2,500 layers of 8 units has as many fields, whose products take less time than the
calls that make them: with these stacked, and small assignments solved together, it is matched in
a fifth of the CPU time. Nothing is approximated: a batched product is the products of its fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Chain
from rebasin_cli.matching.relaxation.soft_fields import Field, GroupNames, Vertex, mean_over_orders

SMALL = 1 << 12  # values of a field that are computed with in less time than a call takes
FEW = 3  # fields of one form that a chain is in; in more of them it is common to a whole stack


class Matrices:
    """An (N, N) matrix for each chain, those of one size in one array, at zero to begin with.

    As soft permutations: rows in the common frame, columns in the model's. As a slope the same.
    """

    def __init__(self, chains: Mapping[GroupNames, Chain], like: Tensor) -> None:
        self._sizes: dict[int, list[GroupNames]] = {}
        for groups, chain in chains.items():
            self._sizes.setdefault(chain.size, []).append(groups)
        self._rows = {g: row for members in self._sizes.values() for row, g in enumerate(members)}
        self._arrays = {n: like.new_zeros(len(m), n, n) for n, m in self._sizes.items()}

    @cached_property
    def by_chain(self) -> Mapping[GroupNames, Tensor]:
        """The matrix of each chain, which is changed in place."""
        return {
            groups: matrix
            for size, members in self._sizes.items()
            for groups, matrix in zip(members, self._arrays[size].unbind(), strict=True)
        }

    def copy(self) -> Matrices:
        """Return matrices with the same values."""
        new = Matrices.__new__(Matrices)
        new._sizes, new._rows = self._sizes, self._rows
        new._arrays = {size: array.clone() for size, array in self._arrays.items()}
        return new

    def add(self, owners: Sequence[GroupNames], reference: Tensor, other: Tensor) -> None:
        """Add the inner products of units, (n, m) of one chain or (chains, n, m) of several."""
        if reference.dim() == 2:
            self.by_chain[owners[0]].addmm_(reference, other.T)
            return
        # No row is there twice (see `Stack`): on a device sums of equal rows come in any order.
        rows = torch.tensor([self._rows[groups] for groups in owners], device=reference.device)
        self._arrays[reference.shape[1]].index_add_(0, rows, reference @ other.mT)

    def mix(self, vertex: Vertex, length: float) -> None:
        """Move soft permutations towards a vertex: P <- (1 - t) P, then t more at [i, p[i]]."""
        for size, members in self._sizes.items():
            array = self._arrays[size].mul_(1 - length)
            orders = torch.stack([vertex[groups] for groups in members])[..., None]
            array.scatter_add_(2, orders, array.new_full(orders.shape, length))


@dataclass(frozen=True)
class Stack:
    """Fields of one form: arrays of all models, (fields, *chain sizes, m).

    At each position the fields have one chain in common, or each a chain of its own: no chain is
    then added to from two places at once, and sums do not depend on the device.
    """

    fields: tuple[Field, ...]
    arrays: tuple[Tensor, ...]

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of the first field: those of the others have the same shapes."""
        return self.fields[0].chains

    @property
    def everywhere(self) -> int:
        return self.fields[0].everywhere

    @cached_property
    def common(self) -> tuple[bool, ...]:
        """Whether all fields have the same chain at a position."""
        first, last = self.fields[0].chains, self.fields[-1].chains
        return tuple(a.groups == b.groups for a, b in zip(first, last, strict=True))

    def owners(self, position: int) -> list[GroupNames]:
        """Return the groups of the chains at a position, once if they are common."""
        fields = self.fields[:1] if self.common[position] else self.fields
        return [field.chains[position].groups for field in fields]

    def order(self, position: int, vertex: Vertex) -> Tensor:
        """Return the order of a chain, (n,) if it is common, else of each field's, (fields, n)."""
        orders = [vertex[groups] for groups in self.owners(position)]
        return orders[0] if self.common[position] else torch.stack(orders)

    def taken(self, array: Tensor, position: int, order: Tensor) -> Tensor:
        """Return an array with the units at a position in another order."""
        axis = position + 1
        if len(self.fields) == 1:  # a dimension less is a tenth of the time of large arrays
            return array[0].index_select(position, order)[None]
        if order.dim() == 1:
            return array.index_select(axis, order)
        shape = [size if k in (0, axis) else 1 for k, size in enumerate(array.shape)]
        return array.gather(axis, order.reshape(shape).expand(array.shape))

    def middle(self, array: Tensor, position: int, fixed: frozenset[str]) -> Tensor:
        """Return the mean of an array over all orders of the chains at a position."""
        return mean_over_orders(array, position + 1, self.chains[position], fixed)

    def units(self, array: Tensor, position: int) -> Tensor:
        """Return the units at a position as rows, (n, ...) if their chain is common.

        Else those of each field, (fields, n, ...).
        """
        lead = 0 if self.common[position] else 1
        moved = array.movedim(position + 1, lead)
        return moved.reshape(*moved.shape[: lead + 1], -1)


def stack_fields(fields: Sequence[Field], fixed: frozenset[str]) -> list[Stack]:
    """Return fields in stacks; a large field has a stack of its own. fixed: groups that stay.

    A chain in many fields of a form (a residual stream) is common to all fields of its stack. Any
    other is in one field of a stack at a position; the next field with it goes to another layer.
    """
    forms = [_form(field, fixed) for field in fields]
    places = Counter(
        (form, k, chain.groups)
        for form, field in zip(forms, fields, strict=True)
        for k, chain in enumerate(field.chains)
    )
    layers = dict[object, int]()  # of a form, in which a chain of a place is free again
    found: dict[object, list[Field]] = {}
    for number, (form, field) in enumerate(zip(forms, fields, strict=True)):
        here = [(form, k, chain.groups) for k, chain in enumerate(field.chains)]
        hubs = tuple(place for place in here if places[place] > FEW)
        own = [(hubs, place) for place in here if place not in hubs]
        layer = max((layers.get(place, 0) for place in own), default=0)
        layers.update(dict.fromkeys(own, layer + 1))
        small = field.arrays[0].numel() <= SMALL
        found.setdefault((form, hubs, layer) if small else number, []).append(field)
    return [_stack_of_fields(members) for members in found.values()]


def _form(field: Field, fixed: frozenset[str]) -> object:
    """Return a key that fields of one stack share: their shapes, and which groups are fixed."""
    chains = tuple(
        (chain.shape, tuple(name in fixed for name in chain.groups)) for chain in field.chains
    )
    return field.arrays[0].shape, chains


def _stack_of_fields(fields: Sequence[Field]) -> Stack:
    models = zip(*(field.arrays for field in fields), strict=True)
    return Stack(tuple(fields), tuple(_stack(arrays) for arrays in models))


def _stack(arrays: Sequence[Tensor]) -> Tensor:
    """Return arrays along a new first dimension; one alone is not copied."""
    return torch.stack(list(arrays)) if len(arrays) > 1 else arrays[0][None]

"""What a family is matched on: pairs of arrays with the family's dimensions in front.

The objective is F(P) = sum over blocks of <A, P B>: A the reference, B the other model, P its
units reordered along every dimension of the block (Ainsworth, Hayase, Srinivasa 2023, section
3.2). With all groups but one at rest F is linear in that one, and a term holds its coefficients:
A as (n, m) and the moved B as (n, m), so that unit j in place of unit i is worth (A B^T)[i, j].

Every block the family occurs in gives one term for each dimension that the root owns. The
last axis of a term holds everything else, brought into the reference's order as far as that
order is known; what is not known yet is sorted, so that it does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod, sqrt
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Site, occurrences
from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.group_families import GroupFamily, sites_of
from rebasin_cli.matching.problem.inner_products import inner, square
from rebasin_cli.matching.problem.shared_work import INLINE, portions, share
from rebasin_cli.permutation import Permutation, Permutations, gather
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.tensors.device_memory import with_room

R = TypeVar("R")
Worth = Callable[[Tensor, Tensor], float]  # of a block of the reference and of the other


@dataclass(frozen=True)
class Term:
    """Values of reference and other, both (*family dims, m); `groups` names the family dims.

    For heads (h) and the dims inside them (d) both are (h, d, m), and head i given the other's
    head i' with the dims in order p is worth the sum over d, m of A[i, d, m] B[i', p[d], m].
    The family dims of B are in the other's own order: they are what is to be solved for.
    """

    groups: tuple[str, ...]
    reference: Tensor
    other: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.reference.dtype

    def at(self, row: int, column: int) -> Term:
        """Return the term for reference index `row` and other index `column` of the first dim."""
        return Term(self.groups[1:], self.reference[row], self.other[column])

    def parts(self, name: str, groups: Mapping[str, BoundGroup], known: Permutations) -> list[Term]:
        """Return one term for each dimension of a group, with its descendants' dims alone.

        The other family dims are permuted and folded into the last axis, or sorted away
        where they are not known.
        """
        owners = (*self.groups, None)
        return [
            arrange(self.reference, self.other, owners, axes, known)
            for axes in occurrences(owners, name, groups)
        ]

    def folded(self, groups: Mapping[str, BoundGroup]) -> Term:
        """Return the term with what never moves in its last axis, unless something is inside it.

        The first dimension stays: it is the one that is solved for. Exact: a dimension that has
        one order only is summed over, whichever unit of the first it is in, as m is.
        """
        # A fixed group that is a parent has to be kept apart: what is inside has an order of its
        # own for each of its units, and folding would force one order on all of them.
        parents = {parent for name in self.groups for parent in groups[name].parents}
        still = [k for k, g in enumerate(self.groups) if k and groups[g].fixed and g not in parents]
        if not still:
            return self
        front = [k for k in range(len(self.groups)) if k not in still]
        head = [self.reference.shape[k] for k in front]
        arrays = (
            values.permute(*front, *still, -1).reshape(*head, -1).contiguous()
            for values in (self.reference, self.other)
        )
        return Term(tuple(self.groups[k] for k in front), *arrays)

    def similarity(self) -> Tensor:
        """Return the (n, n) inner products of a term with one family dimension.

        S[i, j] = <A[i], B[j]>: what it adds to the objective that unit j takes the place of i.
        """
        return self.reference @ self.other.T

    def in_place(self) -> float:
        """Return <reference, other>, summed in float64."""
        return inner(self.reference, self.other)

    def value(self, permutations: Permutations) -> float:
        """Return <reference, permuted other>, summed in float64."""
        moved = gather(self.other, (*self.groups, None), permutations)
        return inner(self.reference, moved)


@dataclass(frozen=True)
class Pair:
    """Reference and other with the groups that name their dimensions.

    Both have the same dtype and are on the same device. pool: the threads that share large work.
    """

    reference: DeviceTensors
    other: DeviceTensors
    groups: Mapping[str, BoundGroup]
    pool: Executor = INLINE
    # norms do not change with the order of units, so they are computed once a family
    _scales: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.reference.device

    @property
    def dtype(self) -> torch.dtype:
        return self.reference.dtype

    @cached_property
    def aside(self) -> Pair:
        """The same pair on the CPU, for what the device has no memory for."""
        return replace(self, reference=self.reference.aside, other=self.other.aside)

    def release(self) -> None:
        """Forget the tensors that are kept on the device."""
        self.reference.release()
        self.other.release()

    def views(self, site: Site) -> tuple[Tensor, Tensor]:
        """Return a block of the reference and of the other as strided views."""
        sources = self.reference, self.other
        reference, other = (site.block.view(site.tensor.load(source)) for source in sources)
        return reference, other

    def arrays(self, site: Site) -> tuple[Tensor, Tensor]:
        """Return a block of the reference and of the other as (*chain sizes, m)."""
        return site.array(self.reference), site.array(self.other)

    def value(self, family: GroupFamily, permutations: Permutations) -> float:
        """Return the part of the objective in the blocks of a family."""
        return self.total({family.root: family}, permutations)

    def total(
        self,
        families: Mapping[str, GroupFamily],
        permutations: Permutations,
        *,
        worth: Worth = inner,
    ) -> float:
        """Return the part of the objective in the blocks of all families."""
        moving = {name: p for name, p in permutations.items() if p.moved}

        def here(site: Site) -> float:
            return with_room(self, partial(_worth, site, moving, worth))

        sites = sites_of(families)
        some = portions(sites, [site.numel for site in sites])
        return sum(value for part in some for value in share(self.pool, here, part))

    def equal(self, families: Mapping[str, GroupFamily], permutations: Permutations) -> bool:
        """Return whether the permutations make the two models equal in the families' blocks."""
        return all(
            with_room(self, partial(_worth, site, permutations, torch.equal))
            for site in sites_of(families)
        )

    def scale(self, family: GroupFamily) -> float:
        """Return the largest value the objective could take in the blocks of a family.

        By Cauchy and Schwarz <A, P B> <= |A| |B|. It is what rises are measured against: the
        objective itself may be near zero, where any rounding would be a large share of it.
        """
        if family.root not in self._scales:
            self._scales[family.root] = sum(share(self.pool, self._largest, family.sites))
        return self._scales[family.root]

    def _largest(self, site: Site) -> float:
        return with_room(self, partial(_worth, site, {}, _bound_of))

    def terms(self, family: GroupFamily, known: Permutations) -> Iterator[Term]:
        """Yield the terms of a family, given the permutations of the groups that are known.

        With every group known these are the exact terms of the objective (linearised at
        `known` where the root owns two dimensions of a block). Groups missing from `known`
        are sorted away: the term is then a descriptor that no permutation of them changes.

        Linearised: <A, P B P^T> gives two terms, A against B P^T along the rows and A^T against
        B^T P^T along the columns, both at the known P. Together they are the gradient by P.

        Sorted: of all orders of values b next to values a, equal ranks side by side make the
        largest sum (the rearrangement inequality). A descriptor is therefore worth no less than
        the pair of units would be under the best order of the unknown, each pair on its own.
        """
        for site in family.sites:
            for axes in occurrences(site.block.groups, family.root, self.groups):
                yield with_room(self, partial(_arrange_site, site, axes, known))


def _worth(
    site: Site, permutations: Permutations, worth: Callable[[Tensor, Tensor], R], pair: Pair
) -> R:
    """Return what a block of the reference and of the other, permuted, are worth."""
    a, b = pair.views(site)
    return worth(a, gather(b, site.block.groups, permutations))


def _bound_of(a: Tensor, b: Tensor) -> float:
    return sqrt(square(a) * square(b))


def _arrange_site(site: Site, axes: tuple[int, ...], known: Permutations, pair: Pair) -> Term:
    return arrange(*pair.views(site), site.block.groups, axes, known)


def arrange(
    reference: Tensor,
    other: Tensor,
    owners: Sequence[str | None],
    axes: tuple[int, ...],
    known: Permutations,
) -> Term:
    """Return a term whose family dims are `axes`; see `Pair.terms` for what becomes of the rest."""
    outside = [None if k in axes else name for k, name in enumerate(owners)]
    other = gather(other, outside, _with_parents(known, outside))
    rest = [k for k in range(len(owners)) if k not in axes]
    # What is in place comes before what is unknown, so that runs of `width` neighbours in memory
    # differ in the unknown dimensions alone: each run is one multiset, and is sorted as one.
    order = [*axes, *(k for k in rest if owners[k] is None or owners[k] in known)]
    lost = [k for k in rest if k not in order]
    width = prod(reference.shape[k] for k in lost)
    names = tuple(owners[k] or "" for k in axes)
    return Term(
        names,
        _flattened(reference.permute(*order, *lost), len(axes), width),
        _flattened(other.permute(*order, *lost), len(axes), width),
    )


def _with_parents(known: Permutations, owners: Sequence[str | None]) -> dict[str, Permutation]:
    """Return the known permutations of `owners` whose parents have a dimension there, too.

    A group inside another has an order for each unit of it: where that unit is not an index of
    the array, there is no telling which of the orders to take.
    """
    here = {name: known[name] for name in owners if name and name in known}
    return {name: p for name, p in here.items() if all(q in owners for q in p.parents)}


def _flattened(values: Tensor, lead: int, width: int) -> Tensor:
    """Return (*leading dims, m), with each run of the last `width` values sorted."""
    head = values.shape[:lead]
    if width > 1:
        values = _sorted(values.reshape(*head, -1, width))
    return values.reshape(*head, -1).contiguous()


def _sorted(values: Tensor) -> Tensor:
    """Return values sorted along the last dimension; on the CPU numpy is ten times as fast."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))

"""The best maps of a whole family at once, given everything outside it.

As in `matching.assignment.joint`, with the maximum over orders replaced by that of each class:

    V[i, j] = S[i, j] + sum over groups g of  max over maps M of g of  <M, S_g[i, :, j, :]>

is what it is worth that unit j of the other model takes the place of unit i of the reference (for
orthogonal maps the maximum is a nuclear norm), and one assignment of V settles both levels. Where
a permutation and a map stand side by side in one parent (queries of a key-value head and the
rotation that they share) the orders of the permutation are enumerated if they are few, and else
the two are improved in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.model import ORTHOGONAL, PERMUTATION, SIGNED
from rebasin_cli.symmetry.class_solvers import SOLVERS
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap

FEW = 4  # units of which all orders are tried: 24
AT_ONCE = 1 << 24  # products of units that are held together: 128 MB
ROUNDS = 10  # of improving groups in turn
WITH_SIGN = ([PERMUTATION, SIGNED], [PERMUTATION, ORTHOGONAL])  # classes of units and of one inside

Similarities = Mapping[tuple[str, ...], Tensor]  # by chain: (batch, *sizes, *sizes)
GroupMatrices = Mapping[str, Tensor]  # by group: (batch, *parent sizes, n, n)


@dataclass(frozen=True)
class LinearTerm:
    """Values of reference and moved other, both (*sizes, m); `groups` names the dimensions.

    `Term` with no group brought in order: the other model is where its maps have put it.
    """

    groups: tuple[str, ...]
    reference: Tensor
    other: Tensor

    @property
    def inside(self) -> tuple[int, ...]:
        """The sizes of all dimensions but the first."""
        return tuple(self.reference.shape[1:-1])

    def all_pairs(self, first: int, last: int) -> Tensor:
        """Return products of some reference units with all others: (pairs, *inside, *inside).

        In float64, as what follows them is solved.
        """
        mine, theirs = self.reference[first:last], self.other
        products = mine.reshape(-1, mine.shape[-1]) @ theirs.reshape(-1, theirs.shape[-1]).T
        size = prod(self.inside)
        found = products.double().reshape(len(mine), size, len(theirs), size).transpose(1, 2)
        return found.reshape(-1, *self.inside, *self.inside)

    def pairs(self, order: Tensor) -> Tensor:
        """Return products of each reference unit with its partner: (n, *inside, *inside)."""
        size = prod(self.inside)
        mine = self.reference.reshape(len(order), size, -1)
        theirs = self.other[order].reshape(len(order), size, -1)
        return (mine @ theirs.mT).double().reshape(-1, *self.inside, *self.inside)


@dataclass(frozen=True)
class FamilySolver:
    """The groups of a spec and the class of each: a key of SOLVERS."""

    groups: Mapping[str, BoundGroup]
    classes: Mapping[str, str]

    def solve(self, root: str, terms: Sequence[LinearTerm]) -> GroupMaps:
        """Return the best maps of a family, relative to where the other model is."""
        if self.flat(term.groups for term in terms):
            return self.units(root, similarities_of(terms))
        size, device = self.groups[root].size, terms[0].reference.device
        index = torch.arange(size, device=device)
        if not self.groups[root].fixed:
            index = assign(self._worth_of_pairs(size, terms)).to(device)
        # Solved once more, for the pairs that were chosen: the maps of all n^2 take n^2 matrices.
        _, chosen = self.inside(_summed((term, term.pairs(index)) for term in terms))
        order = torch.eye(size, dtype=torch.float64, device=device)[index]
        return self._as_maps({root: order[None], **{n: m[None] for n, m in chosen.items()}})

    def flat(self, chains: Iterable[tuple[str, ...]]) -> bool:
        """Return whether units hold no others, or are permuted and hold a sign each."""
        return all(len(chain) == 1 or self._with_sign(chain) for chain in chains)

    def _with_sign(self, chain: tuple[str, ...]) -> bool:
        one = len(chain) == 2 and self.groups[chain[1]].size == 1
        return one and [self.classes[name] for name in chain] in WITH_SIGN

    def units(self, root: str, similarities: Mapping[tuple[str, ...], Tensor]) -> GroupMaps:
        """Return the best maps of units that are `flat`. similarities: by chain, (n, n).

        What two units are worth for each other is the sum of what they have as they are, and of
        the absolute values of what signs may turn.
        """
        signed = {chain[1]: each for chain, each in similarities.items() if len(chain) > 1}
        worth = similarities.get((root,))
        for each in signed.values():
            worth = each.abs() if worth is None else worth + each.abs()
        assert worth is not None
        if self.classes[root] != PERMUTATION:
            return self._as_maps({root: SOLVERS[self.classes[root]](worth[None])})
        units = torch.arange(len(worth), device=worth.device)
        index = units if self.groups[root].fixed else assign(worth).to(worth.device)
        pairs = {name: each[units, index][:, None, None] for name, each in signed.items()}
        return GroupMaps(
            {root: Permutation(index)},
            {
                name: OrthogonalMap(SOLVERS[SIGNED](each.double()), self.groups[name].parents)
                for name, each in pairs.items()
            },
        )

    def _worth_of_pairs(self, size: int, terms: Sequence[LinearTerm]) -> Tensor:
        """Return V (size, size), some rows at a time."""
        widest = max(prod(term.inside) for term in terms)
        step = max(1, AT_ONCE // (size * widest**2))
        rows = []
        for first in range(0, size, step):
            found = _summed((t, t.all_pairs(first, first + step)) for t in terms)
            values, _ = self.inside(found)
            rows.append((values + found.get((), 0)).reshape(-1, size))
        return torch.cat(rows)

    def inside(self, similarities: Similarities) -> tuple[Tensor, GroupMatrices]:
        """Return the best maps of all groups directly inside a parent: (batch,) and matrices."""
        total, matrices = torch.zeros(()), dict[str, Tensor]()
        for tops, mine in self._components({c: s for c, s in similarities.items() if c}):
            values, found = (
                self._alone(tops[0], mine) if len(tops) == 1 else self._side_by_side(mine)
            )
            total = total + values
            matrices |= found
        return total, matrices

    def _alone(self, top: str, similarities: Similarities) -> tuple[Tensor, GroupMatrices]:
        """Return the best maps of a group and of all inside it."""
        size = self.groups[top].size
        batch = len(next(iter(similarities.values())))
        device = next(iter(similarities.values())).device
        below = dict[tuple[str, ...], Tensor]()
        values = torch.zeros(batch, size, size, device=device)
        for chain, each in similarities.items():
            if len(chain) == 1:
                values = values + each
                continue
            depth = len(chain)
            order = [0, 1, 1 + depth, *range(2, 1 + depth), *range(2 + depth, 1 + 2 * depth)]
            below[chain[1:]] = each.permute(order).flatten(0, 2)
        inner: GroupMatrices = {}
        if below:
            worth, inner = self.inside(below)
            values = values + worth.reshape(batch, size, size)
        matrices = SOLVERS[self.classes[top]](values)
        index = matrices.argmax(-1)
        taken = {
            name: _chosen(found.reshape(batch, size, size, *found.shape[1:]), index)
            for name, found in inner.items()
        }
        return (matrices * values).sum((-2, -1)), {top: matrices, **taken}

    def _side_by_side(self, similarities: Similarities) -> tuple[Tensor, GroupMatrices]:
        """Return the best order of one group and the best maps of others that meet it."""
        names = list(dict.fromkeys(name for chain in similarities for name in chain))
        inner = {parent for name in names for parent in self.groups[name].parents}
        order = min(names, key=lambda name: (self.classes[name] != PERMUTATION, name in inner))
        size = self.groups[order].size
        pair = _OrderAndMaps(order, similarities, self)
        few = [*permutations(range(size))] if size <= FEW else [tuple(range(size))]
        if self.classes[order] != PERMUTATION or order in inner:
            tried = [pair.all_in_turn(names, one) for one in few]
        elif size <= FEW:
            tried = [pair.given(one) for one in few]
        else:
            tried = [pair.in_turn(size)]
        return _best(tried)

    def _components(
        self, similarities: Similarities
    ) -> list[tuple[list[str], dict[tuple[str, ...], Tensor]]]:
        """Return the topmost groups, together where a chain holds several, with their chains."""
        found: list[tuple[list[str], dict[tuple[str, ...], Tensor]]] = []
        for chain, each in similarities.items():
            tops = [name for name in chain if self.groups[name].parents[-1] not in chain]
            mine, apart = {chain: each}, []
            for others, theirs in found:
                if set(others) & set(tops):
                    tops, mine = list(dict.fromkeys([*others, *tops])), {**theirs, **mine}
                else:
                    apart.append((others, theirs))
            found = [*apart, (tops, mine)]
        return found

    def _as_maps(self, matrices: GroupMatrices) -> GroupMaps:
        """Return matrices, with a batch of one, as maps: those of permutations as orders."""
        orders, linear = dict[str, Permutation](), dict[str, OrthogonalMap]()
        for name, (matrix,) in matrices.items():
            parents = self.groups[name].parents
            if self.classes[name] == PERMUTATION:
                orders[name] = Permutation(matrix.argmax(-1), parents)
            else:
                linear[name] = OrthogonalMap(matrix, parents)
        return GroupMaps(orders, linear)


@dataclass(frozen=True)
class _OrderAndMaps:
    """A group `order` that meets others in chains; all are inside one parent.

    But for `all_in_turn`, it is a permutation, and none of them is inside one of its units.
    """

    order: str
    similarities: Similarities
    solver: FamilySolver

    @property
    def _any(self) -> Tensor:
        """Similarities of some chain: all have one batch, on one device."""
        return next(iter(self.similarities.values()))

    def given(self, order: Sequence[int]) -> tuple[Tensor, GroupMatrices]:
        """Return the value and the best maps with the units in one order, the same in all."""
        index = torch.tensor(order, device=self._any.device)
        return self._at(index.expand(len(self._any), -1))

    def in_turn(self, size: int) -> tuple[Tensor, GroupMatrices]:
        """Return what improving both in turn leads to, from the order that is in place."""
        best = self.given(range(size))
        for _ in range(ROUNDS):
            worth = self._worth(self.order, best[1])
            found = _best([best, self._at(SOLVERS[PERMUTATION](worth).argmax(-1))])
            if torch.equal(found[0], best[0]):
                break
            best = found
        return best

    def _at(self, index: Tensor) -> tuple[Tensor, GroupMatrices]:
        units = torch.arange(index.shape[1], device=index.device)
        rows = torch.arange(len(index), device=index.device)[:, None]
        left = dict[tuple[str, ...], Tensor]()
        for chain, each in self.similarities.items():
            rest, found = chain, each
            if self.order in chain:
                place = 1 + chain.index(self.order)
                rest = tuple(name for name in chain if name != self.order)
                pairs = each.movedim((place, place + len(chain)), (1, 2))
                found = pairs[rows, units, index].sum(1)
            left[rest] = left[rest] + found if rest in left else found
        value, matrices = self.solver.inside(left)
        order = torch.eye(index.shape[1], device=index.device)[index]
        return value + left.get((), 0), {self.order: order, **matrices}

    def all_in_turn(
        self, names: Sequence[str], order: Sequence[int]
    ) -> tuple[Tensor, GroupMatrices]:
        """Return what improving each group by itself leads to, from an order and no other map."""
        best = {name: self._unmoved(name) for name in names}
        best[self.order] = best[self.order][..., order, :]
        values = self._worth(None, best)
        for _ in range(ROUNDS):
            found = dict(best)
            for name in sorted(names, key=lambda one: -self.solver.groups[one].size):  # signs last
                worth = self._worth(name, found)
                solved = SOLVERS[self.solver.classes[name]](worth.flatten(0, -3))
                found[name] = solved.reshape(worth.shape).to(worth.dtype)
            reached = self._worth(None, found)
            if not bool((reached > values).any()):
                break
            values, best = reached, found
        return values, best

    def _unmoved(self, name: str) -> Tensor:
        """Return identity maps of a group: (batch, *parent sizes in the chain, n, n)."""
        groups = self.solver.groups
        chain = next(chain for chain in self.similarities if name in chain)
        held = [groups[parent].size for parent in groups[name].parents if parent in chain]
        return torch.eye(groups[name].size).to(self._any).repeat(len(self._any), *held, 1, 1)

    def _worth(self, group: str | None, matrices: GroupMatrices) -> Tensor:
        """Return what each unit is worth in each place, other maps as they are: (batch, ..., r, r).

        The map of a group has a matrix for each unit of what holds it, if that is in the chain.
        Without a group: what all maps are worth, (batch,).
        """
        total = torch.zeros((), device=self._any.device)
        for chain, each in self.similarities.items():
            if group not in (None, *chain):
                continue
            rows = {name: 1 + place for place, name in enumerate(chain)}
            columns = {name: len(chain) + row for name, row in rows.items()}
            places = {
                name: [0, *(rows[p] for p in self.solver.groups[name].parents if p in rows), *ends]
                for name, ends in ((name, (rows[name], columns[name])) for name in chain)
            }
            terms: list[Any] = [each, [0, *rows.values(), *columns.values()]]
            for name in (one for one in chain if one != group):
                terms += [matrices[name].to(each.dtype), places[name]]
            total = total + torch.einsum(*terms, [0] if group is None else places[group])
        return total


def similarities_of(terms: Iterable[LinearTerm]) -> dict[tuple[str, ...], Tensor]:
    """Return the similarities of units that are flat, by chain: (n, n), in float64."""
    found: dict[tuple[str, ...], Tensor] = {}
    for term in terms:
        mine, theirs = (each.flatten(1) for each in (term.reference, term.other))
        product = (mine @ theirs.T).double()
        found[term.groups] = found[term.groups] + product if term.groups in found else product
    return found


def _summed(products: Iterable[tuple[LinearTerm, Tensor]]) -> dict[tuple[str, ...], Tensor]:
    """Return the sum of the products of each chain, named without its first group."""
    found: dict[tuple[str, ...], Tensor] = {}
    for term, each in products:
        chain = term.groups[1:]
        found[chain] = found[chain] + each if chain in found else each
    return found


def _best(tried: Sequence[tuple[Tensor, GroupMatrices]]) -> tuple[Tensor, GroupMatrices]:
    """Return the best of several attempts, for each of a batch; of equals the first."""
    values = torch.stack([value for value, _ in tried])
    which, rows = values.argmax(0), torch.arange(values.shape[1], device=values.device)
    matrices = {
        name: torch.stack([found[name] for _, found in tried])[which, rows] for name in tried[0][1]
    }
    return values[which, rows], matrices


def _chosen(found: Tensor, index: Tensor) -> Tensor:
    """Return (batch, n, ...) of (batch, n, n, ...): inside each unit and its partner."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return found[rows, torch.arange(index.shape[1], device=index.device), index]

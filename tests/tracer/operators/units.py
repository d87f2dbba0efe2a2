"""Permute a tensor as the terms of its axes say: a twin of the package's own permutations.

A permutation of an atom is a row, new unit -> old unit; that of a child is a row for each unit of
its parent, by the new unit of the parent at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from rebasin_cli.tracer.axes.analysis import AxisTerms
from rebasin_cli.tracer.axes.axis_terms import (
    Atom,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    ProductTerm,
    SumTerm,
    extent,
)
from rebasin_cli.tracer.axes.bindings import Bindings

Visit = Callable[[Atom, Tensor, Tensor], Tensor]  # atom, unit, where that is valid -> unit
ABSENT = -1
TRIES = 100


@dataclass(frozen=True)
class Moves:
    """A permutation of every atom that moves, with the parents of those that depend on one."""

    rows: Mapping[Atom, Tensor]
    parents: Mapping[Atom, Atom] = field(default_factory=dict)


def draw(
    movable: Iterable[Atom], parents: Mapping[Atom, Atom], generator: torch.Generator
) -> Moves:
    """Return random permutations; the rows of a child differ."""
    rows = {}
    for atom in movable:
        alone = atom not in parents
        rows[atom] = (
            _row(atom.size, generator) if alone else _rows(atom.size, parents[atom].size, generator)
        )
    return Moves(rows, parents)


def _row(size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(size, generator=generator)


def _rows(size: int, count: int, generator: torch.Generator) -> Tensor:
    if not count * size:  # pieces of no length
        return torch.zeros(count, size, dtype=torch.int64)
    for _ in range(TRIES):
        rows = torch.stack([_row(size, generator) for _ in range(count)])
        if count == 1 or bool((rows != rows[0]).any()):
            return rows
    raise AssertionError("no two rows differ")


class Places:
    """The unit of every atom at every place of a tensor."""

    def __init__(self, shape: Sequence[int], axes: AxisTerms, terms: Bindings) -> None:
        self.axes = axes
        self.resolved = [terms.resolve(term) for term in axes]
        self.grid = list(torch.ones(tuple(shape)).nonzero().T.reshape(len(shape), *shape))
        self.everywhere = torch.ones(tuple(shape), dtype=torch.bool)
        self.known: list[dict[Atom, Tensor]] = [self._noted(dim) for dim in range(len(axes))]

    def permuted(self, tensor: Tensor, moves: Moves) -> Tensor:
        """Return a tensor with the units of its axes in their new order."""
        dims = range(len(self.axes))
        return tensor[tuple(self._walk(dim, self._mover(dim, moves)) for dim in dims)]

    def old_numbers(self, numbers: Tensor, domain: AxisTerm, moves: Moves) -> Tensor:
        """Return indices that name new units of a resolved domain, with the old units instead."""
        assert not isinstance(domain, Dependent)
        return _walk(domain, numbers.long(), self.everywhere, self._mover(None, moves))

    def _noted(self, dim: int) -> dict[Atom, Tensor]:
        found: dict[Atom, Tensor] = {}

        def note(atom: Atom, unit: Tensor, inside: Tensor) -> Tensor:
            known = found.get(atom, torch.full_like(unit, ABSENT))
            clash = inside & (known != ABSENT) & (known != unit)
            # A square of one atom says nothing of which of the two units a child goes by.
            fresh = torch.where(clash, torch.full_like(unit, ABSENT), unit)
            found[atom] = torch.where(inside, fresh, known)
            return unit

        self._walk(dim, note)
        return found

    def _mover(self, here: int | None, moves: Moves) -> Visit:
        def move(atom: Atom, unit: Tensor, inside: Tensor) -> Tensor:
            row = moves.rows.get(atom)
            if row is None:
                return unit
            unit = unit.clamp(0, atom.size - 1)
            if atom not in moves.parents:
                return row[unit]
            return row[self._unit_of(moves.parents[atom], here, inside), unit]

        return move

    def _unit_of(self, parent: Atom, here: int | None, inside: Tensor) -> Tensor:
        """Return the unit of a parent: on the same axis, or else on the one other that has it."""
        absent = torch.full(self.everywhere.shape, ABSENT)
        own = self.known[here].get(parent, absent) if here is not None else absent
        others = [k for dim, k in enumerate(self.known) if dim != here and parent in k]
        if bool(((own == ABSENT) & inside).any()):
            assert len(others) == 1, f"{len(others)} axes could name the unit of the parent"
            own = torch.where(own == ABSENT, others[0][parent], own)
        assert not bool(((own == ABSENT) & inside).any()), "a child without its parent"
        return own.clamp(min=0)

    def _walk(self, dim: int, visit: Visit) -> Tensor:
        term, units = self.resolved[dim], self.grid[dim]
        if not isinstance(term, Dependent):
            return _walk(term, units, self.everywhere, visit)
        raw = self.axes[dim]
        assert isinstance(raw, Dependent)
        index = next(k for k, other in enumerate(self.axes) if other is raw.index)
        result = torch.zeros_like(units)
        for case, (start, stop) in zip(term.cases, spans(term.segments), strict=True):
            inside = (self.grid[index] >= start) & (self.grid[index] < stop)
            result = torch.where(inside, _walk(case, units, inside, visit), result)
        return result


def spans(segments: Sequence[AxisTerm]) -> list[tuple[int, int]]:
    """Return where each segment of an axis starts and stops."""
    ends = [0]
    for segment in segments:
        ends.append(ends[-1] + extent(segment))
    return list(pairwise(ends))


def _walk(term: AxisTerm, units: Tensor, inside: Tensor, visit: Visit) -> Tensor:
    """Return the old units of an axis for its new ones, each atom in them as `visit` says."""
    if isinstance(term, Atom):
        return visit(term, units, inside)
    if isinstance(term, ProductTerm):
        return _walk_product(term, units, inside, visit)
    if isinstance(term, InterleavedTerm):
        return _walk_turns(term, units, inside, visit)
    assert isinstance(term, SumTerm), "a dependent axis inside another term"
    result = torch.zeros_like(units)
    for segment, (start, stop) in zip(term.segments, spans(term.segments), strict=True):
        here = (units >= start) & (units < stop)
        old = start + _walk(segment, units - start, inside & here, visit)
        result = torch.where(here, old, result)
    return result


def _walk_turns(term: InterleavedTerm, units: Tensor, inside: Tensor, visit: Visit) -> Tensor:
    count, result = len(term.rows), torch.zeros_like(units)
    for k, row in enumerate(term.rows):
        here = units % count == k
        unit = units.div(count, rounding_mode="floor")
        result = torch.where(here, _walk(row, unit, inside & here, visit) * count + k, result)
    return result


def _walk_product(term: ProductTerm, units: Tensor, inside: Tensor, visit: Visit) -> Tensor:
    inner, result = extent(term), torch.zeros_like(units)
    for factor in term.factors:
        size = extent(factor)
        inner //= size
        unit = units.div(inner, rounding_mode="floor") % size
        result = result * size + _walk(factor, unit, inside, visit)
    return result

"""Atoms, and what is known of each: what it is made of, why it is frozen, what it is a part of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    Atom,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    ProductTerm,
    SumTerm,
    add,
    atoms,
    interleave,
    multiply,
)


@dataclass(frozen=True)
class Reason:
    """Why an atom is frozen. soft: a limit of the tracer, not a fact about the model."""

    text: str
    soft: bool = False


Birth = tuple[str, int]  # a parameter or a call by name, and the axis that an atom was made for
Origin = tuple[Birth, int]  # the birth, and how far into that axis


class KnownAtoms:
    """Atoms, some of which are bound to other atoms, or to products, sums, interleaved parts.

    cuts: for each axis that was born whole, where it was cut later; the next pass over the same
    record makes it of segments from the start. A fused projection viewed as (3, heads, d) and
    taken apart afterwards has one d for queries, keys and values, tied by the view: only
    segments that are there before the view can keep them apart.
    """

    def __init__(self) -> None:
        self._bound: dict[Atom, AxisTerm] = {}
        self._reasons: dict[Atom, Reason] = {}
        self._origins: defaultdict[Atom, set[Origin]] = defaultdict(set)
        self.cuts: defaultdict[Birth, set[int]] = defaultdict(set)

    def atom(self, size: int, birth: Birth | None = None) -> AxisTerm:
        """Return a new free atom; of size 1, the empty product."""
        if size == 1:
            return ONE
        made = Atom(size)
        if birth is not None:
            self.born(made, birth)
        return made

    def held(self, size: int, reason: Reason) -> AxisTerm:
        """Return a new frozen atom."""
        made = self.atom(size)
        self.freeze(made, reason)
        return made

    def born(self, term: AxisTerm, birth: Birth) -> None:
        """Say which axis an atom was made for, so that later cuts are noted there."""
        self.born_at(term, birth, 0)

    def born_at(self, term: AxisTerm, birth: Birth, start: int) -> None:
        """Say of which axis an atom is a part, and where the part starts."""
        if isinstance(term, Atom):
            self._origins[term].add((birth, start))

    def resolve(self, term: AxisTerm) -> AxisTerm:
        """Return what a term is made of now, down to atoms that are bound to nothing."""
        if isinstance(term, Atom):
            bound = self._bound.get(term)
            if bound is None:
                return term
            # Paths are shortened on the way, as in any union-find: chains of bound atoms get as
            # long as the network is deep.
            self._bound[term] = resolved = self.resolve(bound)
            return resolved
        if isinstance(term, ProductTerm):
            return multiply([self.resolve(factor) for factor in term.factors])
        if isinstance(term, SumTerm):
            return add([self.resolve(segment) for segment in term.segments])
        if isinstance(term, InterleavedTerm):
            return interleave([self.resolve(row) for row in term.rows])
        segments = tuple(self.resolve(segment) for segment in term.segments)
        return Dependent(term.index, segments, tuple(self.resolve(case) for case in term.cases))

    def reason(self, atom: Atom) -> Reason | None:
        """Return why a resolved atom is frozen, or None."""
        return self._reasons.get(atom)

    def is_frozen(self, term: AxisTerm) -> bool:
        """Return whether nothing in a term can be permuted."""
        return all(atom in self._reasons for atom in atoms(self.resolve(term)))

    def freeze(self, term: AxisTerm, reason: Reason) -> None:
        """Freeze every atom of a term. The first reason stays, but a hard one replaces a soft.

        What is reported as a limit of the tracer should not be a fact about the model as well.
        """
        for atom in atoms(self.resolve(term)):
            known = self._reasons.get(atom)
            if known is None or (known.soft and not reason.soft):
                self._reasons[atom] = reason

    def inherit(self, part: Atom, whole: Atom, start: int) -> None:
        """Say that an atom is the part of another that begins at `start`.

        Without it the second of two cuts is lost: q taken from q + k + v leaves k and v tied.
        """
        self._origins[part] |= {(birth, at + start) for birth, at in self._origins[whole]}

    def note(self, atom: Atom, offsets: Sequence[int]) -> None:
        """Note where an atom was cut, with all axes that it is a part of."""
        for birth, start in self._origins[atom]:
            self.cuts[birth].update(start + offset for offset in offsets)

    def _bind(self, atom: Atom, term: AxisTerm) -> None:
        # Of two terms of one size neither is a proper part of the other. If it were bound to what
        # it is a part of, resolving it would never end.
        if atom in set(atoms(term)):
            self.freeze(term, Reason("an axis that contains itself", soft=True))
            return
        self._bound[atom] = term
        if isinstance(term, Atom):
            self._origins[term] |= self._origins[atom]
        # Being frozen passes to what the atom is made of now: only roots have reasons.
        reason = self._reasons.pop(atom, None)
        if reason is not None:
            self.freeze(term, reason)

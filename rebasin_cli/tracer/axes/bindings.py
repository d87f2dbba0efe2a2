"""What is known of atoms: which are one, what they are made of, which are frozen, and why.

Every step is sound: where two terms cannot be brought into one shape, all their atoms freeze.
A frozen atom keeps its order, and the identity commutes with every operator; what is lost is a
symmetry that was there, never the function.

Terms are unified as in logic, with two operations that are associative and not commutative:
a product a * b is an axis of a rows of b in row-major order (what `view` makes of two axes, and
takes apart again), a sum a + b a concatenation. Two terms of one axis become one so:

    atom   ~ anything   the atom is bound to it
    a * b  ~ c * d      outer factors against outer ones, the larger split by the smaller
    a + b  ~ c + d      both are cut at the boundaries of either, pieces against pieces
    a * b  ~ c + d      the product is cut too, which it can be at multiples of its inner size

The relation has no direction: writing in place unifies the new values' axes with the old ones'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    Atom,
    AxisTerm,
    Dependent,
    ProductTerm,
    SumTerm,
    add,
    are_shifted,
    atoms,
    boundaries,
    extent,
    multiply,
    parts,
    whole_rows,
)


@dataclass(frozen=True)
class Reason:
    """Why an atom is frozen. soft: a limit of the tracer, not a fact about the model."""

    text: str
    soft: bool = False


Birth = tuple[str, int]  # a parameter or a call by name, and the axis that an atom was made for
Origin = tuple[Birth, int]  # the birth, and how far into that axis


class Bindings:
    """A union-find over atoms whose members may also be bound to products and sums.

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

    # -- atoms ----------------------------------------------------------------------------------

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
        """Return what a term is made of now: atoms that are bound to nothing, products, sums."""
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

    # -- making two terms one -------------------------------------------------------------------

    def unify(self, first: AxisTerm, second: AxisTerm) -> None:
        """Make two axes of one size move together."""
        one, two = self.resolve(first), self.resolve(second)
        if one == two:
            return
        if isinstance(one, Dependent) or isinstance(two, Dependent):
            self._unify_dependent(one, two)
        elif isinstance(one, Atom):
            self._bind(one, two)
        elif isinstance(two, Atom):
            self._bind(two, one)
        # Two frozen composites are left in their shapes: neither moves, whatever it is cut into.
        elif not (self.is_frozen(one) and self.is_frozen(two)):
            self._unify_composite(one, two)

    def _unify_composite(self, one: AxisTerm, two: AxisTerm) -> None:
        if isinstance(one, ProductTerm) and isinstance(two, ProductTerm):
            self._unify_products(list(one.factors), list(two.factors))
            return
        # x[1:] next to x[:-1]: unit i would be unit i + 1, cut by cut along the whole axis.
        if are_shifted(one, two):
            self._give_up([one, two], "an axis that meets itself shifted")
            return
        bounds = {b for t in (one, two) if isinstance(t, SumTerm) for b in boundaries(t.segments)}
        self.unify_all(self._cut(one, sorted(bounds)), self._cut(two, sorted(bounds)))

    def unify_all(self, first: Iterable[AxisTerm], second: Iterable[AxisTerm]) -> None:
        """Unify two rows of terms one by one."""
        for one, two in zip(first, second, strict=True):
            self.unify(one, two)

    def _unify_dependent(self, one: AxisTerm, two: AxisTerm) -> None:
        if (
            isinstance(one, Dependent)
            and isinstance(two, Dependent)
            and boundaries(one.segments) == boundaries(two.segments)
            and self.resolve(one.index) == self.resolve(two.index)
        ):
            self.unify_all(one.cases, two.cases)
        else:
            self.unify(self.collapse(one), self.collapse(two))

    def collapse(self, term: AxisTerm) -> AxisTerm:
        """Return a term that depends on no other axis, by making all its cases one.

        The way out where the axis that it depends on is lost: tied is sound, apart would not be.
        """
        if not isinstance(term, Dependent):
            return term
        first, *rest = term.cases
        for case in rest:
            self.unify(first, case)
        return first

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

    def _unify_products(self, one: list[AxisTerm], two: list[AxisTerm]) -> None:
        every = [*one, *two]
        while one and two:
            # 12 = 3 * 4 against 6 * 2: 6 is split into 3 * 2, then 4 into 2 * 2. But 3 * 4 against
            # 2 * 6 moves units across what the other holds together: no common factors.
            size, other = extent(one[0]), extent(two[0])
            step = min(size, other)
            if max(size, other) % step:
                self._give_up(every, f"factors of {size} and {other} do not line up")
                return
            self.unify(self._take(one, step), self._take(two, step))

    def _take(self, factors: list[AxisTerm], size: int) -> AxisTerm:
        """Take the outer part of a size from the first of a row of factors, and leave the rest."""
        outer, inner = self.split(factors.pop(0), size)
        if inner != ONE:
            factors.insert(0, inner)
        return outer

    # -- taking terms apart ---------------------------------------------------------------------

    def cut(self, term: AxisTerm, offsets: Sequence[int]) -> list[AxisTerm]:
        """Return the segments of an axis between increasing offsets inside it."""
        term = self.collapse(term)
        if isinstance(term, Atom) and not self.is_frozen(term):
            self._note(term, offsets)
        return self._cut(self.resolve(term), offsets)

    def inherit(self, part: Atom, whole: Atom, start: int) -> None:
        """Say that an atom is the part of another that begins at `start`.

        Without it the second of two cuts is lost: q taken from q + k + v leaves k and v tied.
        """
        self._origins[part] |= {(birth, at + start) for birth, at in self._origins[whole]}

    def _note(self, atom: Atom, offsets: Sequence[int]) -> None:
        for birth, start in self._origins[atom]:
            self.cuts[birth].update(start + offset for offset in offsets)

    def _cut(self, term: AxisTerm, offsets: Sequence[int]) -> list[AxisTerm]:
        term = self.resolve(term)  # the same atom may stand twice in what is being cut
        if not offsets:
            return [term]
        if isinstance(term, Atom):
            return self._cut_atom(term, offsets)
        if isinstance(term, SumTerm):
            return self._cut_sum(term.segments, offsets)
        # A product is rows of its inner factors: between whole rows the outer factor is cut, and
        # each piece keeps the inner ones. A row that is cut inside stands alone, and stays.
        outer, *inner = parts(term)
        row = multiply(inner)
        size = extent(row)
        bounds = {end for offset in offsets for end in (offset // size, -(-offset // size))}
        outers = self._cut(outer, sorted(bounds - {0, extent(outer)}))
        pieces = [multiply([piece, row]) for piece in outers]
        return self._cut_sum(pieces, offsets) if any(o % size for o in offsets) else pieces

    def _cut_atom(self, atom: Atom, offsets: Sequence[int]) -> list[AxisTerm]:
        if atom not in self._reasons:
            self._note(atom, offsets)
        pieces: list[AxisTerm] = []
        for start, end in pairwise((0, *offsets, atom.size)):
            piece = self.atom(end - start)
            if isinstance(piece, Atom):
                self._origins[piece] = {(b, at + start) for b, at in self._origins[atom]}
            pieces.append(piece)
        self._bind(atom, SumTerm(tuple(pieces)))
        return pieces

    def _cut_sum(self, segments: Sequence[AxisTerm], offsets: Sequence[int]) -> list[AxisTerm]:
        """Cut each segment where offsets fall inside it, then join what lies between offsets."""
        pieces: list[list[AxisTerm]] = [[]]
        start = 0
        for segment in segments:
            end = start + extent(segment)
            inside = [offset - start for offset in offsets if start < offset < end]
            first, *rest = self._cut(segment, inside)
            if start in offsets:
                pieces.append([])
            pieces[-1].append(first)
            pieces.extend([piece] for piece in rest)
            start = end
        return [add(piece) for piece in pieces]

    def split(self, term: AxisTerm, outer: int) -> tuple[AxisTerm, AxisTerm]:
        """Return the outer and inner factor of an axis, the outer one of the given size."""
        term = self.resolve(self.collapse(term))
        inner = extent(term) // outer
        if outer == 1:
            return ONE, term
        if inner == 1:
            return term, ONE
        if isinstance(term, Atom):
            pair = self.atom(outer), self.atom(inner)
            self._bind(term, ProductTerm(pair))
            return pair
        if isinstance(term, SumTerm):
            return self._split_sum(term, outer, inner)
        return self._split_product(term, outer, inner)

    def _split_sum(self, term: SumTerm, outer: int, inner: int) -> tuple[AxisTerm, AxisTerm]:
        """Split a sum: (a * n + b * n) is (a + b) * n, the inner factors of all rows being one."""
        rows = whole_rows(term.segments, inner)
        if len(rows) == 1:
            return self._give_up_split(term, outer, inner)
        pairs = [self.split(row, extent(row) // inner) for row in rows]
        for _, rest in pairs[1:]:
            self.unify(pairs[0][1], rest)
        return add([first for first, _ in pairs]), pairs[0][1]

    def _split_product(self, term: AxisTerm, outer: int, inner: int) -> tuple[AxisTerm, AxisTerm]:
        left: list[AxisTerm] = []
        right, missing = list(parts(term)), outer
        while missing > 1:
            size = extent(right[0])
            step = min(size, missing)
            if max(size, missing) % step:
                return self._give_up_split(term, outer, inner)
            left.append(self._take(right, step))
            missing //= step
        return multiply(left), multiply(right)

    def _give_up_split(self, term: AxisTerm, outer: int, inner: int) -> tuple[AxisTerm, AxisTerm]:
        text = f"{extent(term)} seen as {outer} * {inner} crosses what it is made of"
        first, second = self._give_up([term], text, [outer, inner])
        return first, second

    def _give_up(
        self, terms: Iterable[AxisTerm], text: str, sizes: Sequence[int] = ()
    ) -> list[AxisTerm]:
        """Freeze terms that cannot be taken apart, and return frozen atoms in their place."""
        reason = Reason(text, soft=True)
        for term in terms:
            self.freeze(term, reason)
        return [self.held(size, reason) for size in sizes]

"""What is known of atoms: which are one, what they are made of, which are frozen, and why.

Every step is sound: where two terms cannot be brought into one shape, all their atoms freeze.
A frozen atom keeps its order, and the identity commutes with every operator; what is lost is a
symmetry that was there, never the function.

Terms are unified as in logic, with operations that are not commutative: a product a * b is an axis
of a rows of b in row-major order (what `view` makes of two axes, and takes apart again), a sum
a + b a concatenation, a | b alternates between the two. Two terms of one axis become one so:

    atom   ~ anything   the atom is bound to it
    a * b  ~ c * d      outer factors against outer ones, the larger split by the smaller
    a + b  ~ c + d      both are cut at the boundaries of either, pieces against pieces
    a * b  ~ c + d      the product is cut too, which it can be at multiples of its inner size
    a | b  ~ c | d      part against part; of 2 parts and 3, each is taken apart until there are 6
    a | b  ~ c + d      what is interleaved is cut too: every part of it is

The relation has no direction: writing in place unifies the new values' axes with the old ones'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import lcm

from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    Atom,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    ProductTerm,
    SumTerm,
    add,
    are_shifted,
    are_shuffled,
    boundaries,
    extent,
    interleave,
    multiply,
    parts,
    turns,
    whole_rows,
)
from rebasin_cli.tracer.axes.known_atoms import KnownAtoms, Reason

ALTERNATING = 64  # of more parts than that none has an order of its own: a sum of as many pieces


class Bindings(KnownAtoms):
    """A union-find over atoms whose members may also be bound to composite terms."""

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
        if isinstance(one, InterleavedTerm) and isinstance(two, InterleavedTerm):
            self._unify_turns(one, two, lcm(len(one.rows), len(two.rows)))
            return
        # x[1:] next to x[:-1]: unit i would be unit i + 1, cut by cut along the whole axis.
        if are_shifted(one, two):
            self._give_up([one, two], "an axis that meets itself shifted")
            return
        bounds = {b for t in (one, two) if isinstance(t, SumTerm) for b in boundaries(t.segments)}
        mixed = next((t for t in (one, two) if isinstance(t, InterleavedTerm)), None)
        if mixed and are_shuffled(one, two):
            self._give_up([one, two], "an axis that meets itself shuffled")
            return
        if mixed and not bounds:
            self._unify_turns(one, two, len(mixed.rows))
            return
        self.unify_all(self._cut(one, sorted(bounds)), self._cut(two, sorted(bounds)))

    def unify_all(self, first: Iterable[AxisTerm], second: Iterable[AxisTerm]) -> None:
        """Unify two rows of terms one by one."""
        for one, two in zip(first, second, strict=True):
            self.unify(one, two)

    def _unify_turns(self, one: AxisTerm, two: AxisTerm, count: int) -> None:
        """Make each of `count` parts that alternate along two axes one."""
        rows = self.in_turn(one, count), self.in_turn(two, count)
        if rows[0] and rows[1]:
            self.unify_all(*rows)
        else:
            self._give_up([one, two], "interleaved parts do not line up")

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

    def cut(self, term: AxisTerm, offsets: Sequence[int]) -> list[AxisTerm]:
        """Return the segments of an axis between increasing offsets inside it."""
        term = self.collapse(term)
        if isinstance(term, Atom) and not self.is_frozen(term):
            self.note(term, offsets)
        return self._cut(self.resolve(term), offsets)

    def _cut(self, term: AxisTerm, offsets: Sequence[int]) -> list[AxisTerm]:
        term = self.resolve(term)  # the same atom may stand twice in what is being cut
        if not offsets:
            return [term]
        if isinstance(term, Atom):
            return self._cut_atom(term, offsets)
        if isinstance(term, SumTerm):
            return self._cut_sum(term.segments, offsets)
        if isinstance(term, InterleavedTerm):
            return self._cut_turns(term.rows, offsets)
        # A product is rows of its inner factors: between whole rows the outer factor is cut, and
        # each piece keeps the inner ones. A row that is cut inside stands alone, and stays; the
        # next pass may know better: channels that were shuffled, if each of its units is a part.
        outer, *inner = parts(term)
        row = multiply(inner)
        size = extent(row)
        if isinstance(row, Atom) and size <= ALTERNATING and any(o % size for o in offsets):
            self.note(row, range(1, size))
        bounds = {end for offset in offsets for end in (offset // size, -(-offset // size))}
        outers = self._cut(outer, sorted(bounds - {0, extent(outer)}))
        pieces = [multiply([piece, row]) for piece in outers]
        return self._cut_sum(pieces, offsets) if any(o % size for o in offsets) else pieces

    def _cut_atom(self, atom: Atom, offsets: Sequence[int]) -> list[AxisTerm]:
        if atom not in self._reasons:
            self.note(atom, offsets)
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

    def _cut_turns(self, rows: Sequence[AxisTerm], offsets: Sequence[int]) -> list[AxisTerm]:
        """Cut interleaved parts: between two places each has a run of its units, in turn."""
        total = sum(map(extent, rows))
        found = [turns(len(rows), *ends) for ends in pairwise((0, *offsets, total))]
        ends: list[set[int]] = [set() for _ in rows]
        for part, start, stop in (run for runs in found for run in runs):
            ends[part] |= {start, stop} - {0, extent(rows[part])}
        pieces = [self._cut(row, sorted(inside)) for row, inside in zip(rows, ends, strict=True)]
        taken = [iter(row) for row in pieces]
        return [interleave([next(taken[part]) for part, _, _ in runs]) for runs in found]

    def in_turn(self, term: AxisTerm, count: int) -> list[AxisTerm]:
        """Return the parts that alternate along an axis; none if it cannot be taken apart so.

        Part j of them has the units at j, j + count, j + 2 count, ...
        """
        term = self.resolve(self.collapse(term))
        count = min(count, extent(term))
        if count == 1:
            return [term]
        if isinstance(term, Atom):
            rows = [self.atom(len(range(k, term.size, count))) for k in range(count)]
            self._bind(term, interleave(rows))
            return rows
        if isinstance(term, SumTerm):
            return self._sum_in_turn(term.segments, count)
        if isinstance(term, InterleavedTerm):
            return self._regrouped(term.rows, count)
        return self._product_in_turn(term, count)

    def _sum_in_turn(self, segments: Sequence[AxisTerm], count: int) -> list[AxisTerm]:
        rows: list[list[AxisTerm]] = [[] for _ in range(count)]
        start = 0
        for segment in segments:
            inside = self.in_turn(segment, count)
            if not inside:
                return []
            for k, part in enumerate(inside):
                rows[(start + k) % count].append(part)
            start += extent(segment)
        return [add(row) for row in rows]

    def _regrouped(self, rows: Sequence[AxisTerm], count: int) -> list[AxisTerm]:
        """Return `count` parts instead of those given: of 3 parts 2, by way of 6."""
        have = len(rows)
        if not have:
            return []
        if have % count == 0:
            return [interleave(rows[k::count]) for k in range(count)]
        if count % have:
            finer, size = lcm(count, have), sum(map(extent, rows))
            return self._regrouped(self._regrouped(rows, finer), count) if finer <= size else []
        inside = [self.in_turn(row, count // have) for row in rows]
        found = [inside[k % have][k // have : k // have + 1] for k in range(count)]
        return [part for row in found for part in row] if all(inside) else []

    def _product_in_turn(self, term: AxisTerm, count: int) -> list[AxisTerm]:
        """Of a * b with b as long as there are parts, each part is a: they are one."""
        *outer, inner = parts(term)
        if extent(inner) % count == 0 and extent(inner) > count:
            rows = self.in_turn(inner, count)
            return [multiply([*outer, row]) for row in rows]
        if extent(inner) != count:
            return []
        self._cut(inner, range(1, count))
        return [multiply(outer)] * count

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
        if isinstance(term, InterleavedTerm):
            return self._split_turns(term, outer, inner)
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

    def _split_turns(
        self, term: InterleavedTerm, outer: int, inner: int
    ) -> tuple[AxisTerm, AxisTerm]:
        """Split interleaved parts: rows of some units of each, or the parts themselves are one."""
        if inner % len(term.rows) == 0:
            pairs = [self.split(row, outer) for row in term.rows]
            for first, _ in pairs[1:]:
                self.unify(pairs[0][0], first)
            return pairs[0][0], interleave([rest for _, rest in pairs])
        rows = self.in_turn(term, inner)
        if not rows:
            return self._give_up_split(term, outer, inner)
        for row in rows[1:]:
            self.unify(rows[0], row)
        return rows[0], add([ONE] * inner)

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

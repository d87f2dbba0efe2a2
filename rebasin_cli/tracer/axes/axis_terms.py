"""What an axis is made of while a model is traced: atoms, products, sums, parts that alternate.

Terms are trees: bloom's and falcon's fused projections have sums inside products, such as
heads * (qk + qk + vo). An axis of size 1 is the empty product, so that squeezing, unsqueezing and
broadcasting need no rules; it must never be an atom, or all of them would be tied together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, eq=False)
class Atom:
    """A set of `size` units that move together; equal only to itself.

    What an atom turns out to be (another atom, a product, a sum, frozen) is kept by `Bindings`.
    """

    size: int
    label: str = ""


@dataclass(frozen=True)
class ProductTerm:
    """Nested factors in row-major order; the empty product is an axis of size 1."""

    factors: tuple[AxisTerm, ...]


@dataclass(frozen=True)
class SumTerm:
    """Segments that are concatenated along the axis."""

    segments: tuple[AxisTerm, ...]


@dataclass(frozen=True)
class InterleavedTerm:
    """Parts whose units alternate: what a channel shuffle makes of two halves.

    Of n units, part j of k has those at j, j + k, j + 2 k, ... Make it with `interleave`.
    """

    rows: tuple[AxisTerm, ...]


@dataclass(frozen=True)
class Dependent:
    """An axis that means something else in each segment of another axis of the same tensor.

    index: the atom that stands for the other axis. segments: what that is made of, one a case.
    Only a whole axis is dependent: it never stands inside another term.
    The rows of nn.MultiheadAttention's in_proj_weight are queries + keys + values, and in cross
    attention their columns are the decoder's stream in the first segment, the encoder's in others.
    """

    index: Atom
    segments: tuple[AxisTerm, ...]
    cases: tuple[AxisTerm, ...]


AxisTerm = Atom | ProductTerm | SumTerm | InterleavedTerm | Dependent

ONE = ProductTerm(())
STEPS = 64  # an axis that is compared with itself shifted by less than its 64th part is frozen


def extent(term: AxisTerm) -> int:
    """Return the size of an axis."""
    if isinstance(term, Atom):
        return term.size
    if isinstance(term, Dependent):
        return extent(term.cases[0])
    if isinstance(term, ProductTerm):
        return prod(extent(factor) for factor in term.factors)
    return sum(map(extent, parts(term)))


def multiply(factors: Sequence[AxisTerm]) -> AxisTerm:
    """Return the product of terms; products inside it are flattened."""
    flat = [g for f in factors for g in (f.factors if isinstance(f, ProductTerm) else (f,))]
    return flat[0] if len(flat) == 1 else ProductTerm(tuple(flat))


def add(segments: Sequence[AxisTerm]) -> AxisTerm:
    """Return the concatenation of one or more terms; sums inside it are flattened."""
    flat = [t for s in segments for t in (s.segments if isinstance(s, SumTerm) else (s,))]
    return flat[0] if len(flat) == 1 else SumTerm(tuple(flat))


def interleave(rows: Sequence[AxisTerm]) -> AxisTerm:
    """Return one or more terms interleaved; of one unit each, they are a concatenation."""
    if len(rows) == 1:
        return rows[0]
    return add(rows) if extent(rows[0]) == 1 else InterleavedTerm(tuple(rows))


def turns(count: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Return which units of interleaved parts lie between two places of their axis.

    For each part in order of its first unit there: which of the `count` parts, from, and to which
    of its own units.
    """
    order = [(start + k) % count for k in range(min(count, stop - start))]
    return [(part, -((part - start) // count), -((part - stop) // count)) for part in order]


def atoms(term: AxisTerm) -> Iterator[Atom]:
    """Yield the atoms of a term from left to right, repeated ones included."""
    if isinstance(term, Atom):
        yield term
        return
    for part in parts(term):
        yield from atoms(part)


def parts(term: AxisTerm) -> tuple[AxisTerm, ...]:
    """Return the factors, segments, interleaved parts or cases of a term; of an atom, none."""
    if isinstance(term, ProductTerm):
        return term.factors
    if isinstance(term, SumTerm):
        return term.segments
    if isinstance(term, InterleavedTerm):
        return term.rows
    return term.cases if isinstance(term, Dependent) else ()


AtomBlock = tuple[Atom, ...]


def paths(term: AxisTerm) -> Iterator[AtomBlock]:
    """Yield, for each block that an axis is cut into, the atoms that meet there.

    The outer ones come first. Of heads * (qk + vo): (heads, qk) and (heads, vo). Whether a group
    stands beside another is asked for each block by itself: qk and vo never meet.
    """
    if isinstance(term, Atom):
        yield (term,)
    elif isinstance(term, ProductTerm):
        yield from _cross_product(term.factors)
    else:
        for part in parts(term):
            yield from paths(part)


def _cross_product(factors: Sequence[AxisTerm]) -> Iterator[AtomBlock]:
    if not factors:
        yield ()
        return
    for first in paths(factors[0]):
        for rest in _cross_product(factors[1:]):
            yield first + rest


def boundaries(segments: Sequence[AxisTerm]) -> list[int]:
    """Return where one segment ends and the next begins, without 0 and the end."""
    ends, total = [], 0
    for segment in segments[:-1]:
        total += extent(segment)
        ends.append(total)
    return ends


def whole_rows(segments: Sequence[AxisTerm], size: int) -> list[AxisTerm]:
    """Join neighbouring segments until each piece is a whole number of rows of a size.

    No more than that are joined: each piece then has an outer factor of its own.
    """
    rows: list[list[AxisTerm]] = [[]]
    for segment in segments:
        if sum(map(extent, rows[-1])) % size == 0 and rows[-1]:
            rows.append([])
        rows[-1].append(segment)
    return [add(row) for row in rows]


def divides(term: AxisTerm, outer: int) -> bool:
    """Return whether a resolved axis is rows of one kind, that many.

    Interleaved parts are not: each row of them has units of its own.
    """
    inner = extent(term) // outer
    if isinstance(term, SumTerm):
        rows = whole_rows(term.segments, inner)
        ends = boundaries(term.segments)
        apart = all(k * inner in ends for k in range(1, outer))
        return not apart and len(rows) > 1 and all(divides(r, extent(r) // inner) for r in rows)
    if isinstance(term, InterleavedTerm):
        return False
    for factor in parts(term):
        size = extent(factor)
        if outer < size:
            return size % outer == 0 and (outer == 1 or divides(factor, outer))
        if outer % size:
            return False
        outer //= size
    return True


def are_shifted(one: AxisTerm, two: AxisTerm) -> bool:
    """Return whether two concatenations have an atom at places near each other, but not equal.

    To make them one would cut it into as many pieces as it has steps of that length. Further
    apart they are cut: the units of the chains i, i + s, i + 2 s, ... then move together.
    """
    first, second = _places(one), _places(two)
    steps = (
        abs(a - b)
        for atom in first.keys() & second.keys()
        for a in first[atom]
        for b in second[atom]
    )
    return any(0 < step * STEPS < extent(one) for step in steps)


def are_shuffled(one: AxisTerm, two: AxisTerm) -> bool:
    """Return whether two axes have an atom in common whose units are not at the same places.

    To make them one would cut it along every cycle of the shuffle, unit by unit.
    """
    first, second = (dict(_runs(term, 0, 1)) for term in (one, two))
    return any(first[atom] != second[atom] for atom in first.keys() & second.keys())


def _runs(term: AxisTerm, start: int, step: int) -> Iterator[tuple[Atom, tuple[int, int]]]:
    """Yield each atom with the place of its first unit and the step from one unit to the next."""
    if isinstance(term, Atom):
        yield term, (start, step)
    sizes = [extent(part) for part in parts(term)]
    for k, part in enumerate(parts(term)):
        if isinstance(term, ProductTerm):
            yield from _runs(part, start, step * prod(sizes[k + 1 :]))
        elif isinstance(term, InterleavedTerm):
            yield from _runs(part, start + k * step, step * len(sizes))
        else:
            yield from _runs(part, start + sum(sizes[:k]) * step, step)


def _places(term: AxisTerm) -> dict[Atom, set[int]]:
    """Return where each atom that is a whole segment begins."""
    places: defaultdict[Atom, set[int]] = defaultdict(set)
    start = 0
    for segment in term.segments if isinstance(term, SumTerm) else (term,):
        for atom in atoms(segment):
            places[atom].add(start)
        start += extent(segment)
    return places

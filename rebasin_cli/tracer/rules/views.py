"""Reshaping: axes are multiplied together and split into others, in row-major order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import prod

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms
from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    SumTerm,
    add,
    boundaries,
    extent,
    interleave,
    multiply,
)
from rebasin_cli.tracer.axes.bindings import ALTERNATING
from rebasin_cli.tracer.axes.known_atoms import Birth
from rebasin_cli.tracer.recording.record import Call


def regroup(analysis: Analysis, call: Call, axes: AxisTerms, shape: Sequence[int]) -> AxisTerms:
    """Return the axes of a tensor seen in another shape."""
    result: list[AxisTerm] = [ONE] * len(shape)
    if 0 in shape:
        return analysis.frozen(shape, "empty")
    births = [(f"call {call.index}", dim) for dim in range(len(shape))]
    for terms, dims in aligned(axes, shape):
        if len(terms) == len(dims) == 1:
            result[dims[0]] = terms[0]
            continue
        sizes, names = [shape[dim] for dim in dims], [births[dim] for dim in dims]
        for dim, term in zip(
            dims, opened(analysis, merged(analysis, terms), sizes, names), strict=True
        ):
            result[dim] = term
    return tuple(result)


def aligned(axes: AxisTerms, shape: Sequence[int]) -> Iterator[tuple[list[AxisTerm], list[int]]]:
    """Yield the smallest rows of axes and of new dimensions that hold the same elements."""
    left = [term for term in axes if extent(term) != 1]
    right = [dim for dim, size in enumerate(shape) if size != 1]
    while left:
        terms, dims = [left.pop(0)], [right.pop(0)]
        have, want = extent(terms[0]), shape[dims[0]]
        while have != want:
            if have < want:
                terms.append(left.pop(0))
                have *= extent(terms[-1])
            else:
                dims.append(right.pop(0))
                want *= shape[dims[-1]]
        yield terms, dims


def merged(analysis: Analysis, terms: Sequence[AxisTerm]) -> AxisTerm:
    """Return the product of axes; one that is followed by its dependents becomes a sum.

    One that follows them is a shuffle: their cases alternate.
    """
    factors: list[AxisTerm] = []
    rest = list(terms)
    while rest:
        term = rest.pop(0)
        hanging = _hanging(rest, term)
        before = [term, *_hanging(rest, term.index)] if isinstance(term, Dependent) else []
        if hanging:
            rows = zip(hanging[0].segments, *(axis.cases for axis in hanging), strict=True)
            factors.append(add([multiply(row) for row in rows]))
            del rest[: len(hanging)]
        elif before and _alternates(analysis, before, rest[len(before) - 1 :]):
            rows = zip(*(axis.cases for axis in before), strict=True)
            factors.append(interleave([multiply(row) for row in rows]))
            del rest[: len(before)]
        else:
            factors.append(analysis.terms.collapse(term))
    return multiply(factors)


def _hanging(terms: Sequence[AxisTerm], index: AxisTerm) -> list[Dependent]:
    """Return the first of some axes, as many as depend on another one."""
    follow = (t if isinstance(t, Dependent) and t.index is index else None for t in terms)
    return [axis for axis in takewhile(bool, follow) if axis is not None]


def _alternates(analysis: Analysis, before: Sequence[Dependent], rest: Sequence[AxisTerm]) -> bool:
    """Return whether the axis behind its dependents has a segment for each unit, and ends them.

    If its segments are longer, it is cut: so it will be in the next pass.
    """
    index, segments = before[0].index, before[0].segments
    if not rest or rest[0] is not index or _hanging(rest[1:], index):
        return False
    if len(segments) == index.size:
        return True
    if index.size <= ALTERNATING:
        analysis.terms.cut(index, range(1, index.size))
    return False


def opened(
    analysis: Analysis, term: AxisTerm, sizes: Sequence[int], births: Sequence[Birth]
) -> list[AxisTerm]:
    """Split an axis into dimensions of the given sizes.

    Where the first of them is known to be cut, or the axis is a concatenation of whole rows of
    the others, each segment gets inner dimensions of its own. So does each row of what is
    interleaved; if the rows are as long as it has parts, each unit of them stands for a part.
    """
    if len(sizes) == 1:
        return [term]
    inner = prod(sizes[1:])
    cuts = set(analysis.terms.cuts.get(births[0], ()))
    resolved = analysis.terms.resolve(term)
    if isinstance(resolved, SumTerm) and not analysis.terms.is_frozen(resolved):
        cuts |= {end // inner for end in boundaries(resolved.segments) if end % inner == 0}
    if isinstance(resolved, InterleavedTerm) and not analysis.terms.is_frozen(resolved):
        if list(sizes[1:]) == [len(resolved.rows)]:
            index, ones = analysis.segmented(births[1], range(1, sizes[1]), sizes[1])
            return [Dependent(index, ones, resolved.rows), index]
        if sizes[0] <= ALTERNATING:
            cuts |= set(range(1, sizes[0]))
    if cuts:
        return _opened_in_segments(analysis, term, sizes, births[0], sorted(cuts))
    first, rest = analysis.terms.split(term, sizes[0])
    analysis.terms.born(first, births[0])
    return [first, *opened(analysis, rest, sizes[1:], births[1:])]


def _opened_in_segments(
    analysis: Analysis, term: AxisTerm, sizes: Sequence[int], birth: Birth, cuts: list[int]
) -> list[AxisTerm]:
    inner = prod(sizes[1:])
    pieces = analysis.terms.cut(term, [cut * inner for cut in cuts])
    index, segments = analysis.segmented(birth, cuts, sizes[0])
    rows = []
    for piece, segment in zip(pieces, segments, strict=True):
        outer, rest = analysis.terms.split(piece, extent(segment))
        analysis.terms.unify(outer, segment)
        rows.append(_rows(analysis, rest, sizes[1:]))
    axes: list[AxisTerm] = [index]
    for cases in zip(*rows, strict=True):
        axes.append(ONE if extent(cases[0]) == 1 else Dependent(index, segments, cases))
    return axes


def _rows(analysis: Analysis, term: AxisTerm, sizes: Sequence[int]) -> list[AxisTerm]:
    if len(sizes) == 1:
        return [term]
    first, rest = analysis.terms.split(term, sizes[0])
    return [first, *_rows(analysis, rest, sizes[1:])]

"""Rules of operators that take a part of an axis, or cut it into parts."""

from __future__ import annotations

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import (
    Atom,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    SumTerm,
    extent,
)
from rebasin_cli.tracer.recording.record import Call, Value


def select(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, dim = analysis.of(call.args[0]), call.arg("dim")
    position = call.arg("index") % call.args[0].shape[dim]
    dim %= len(axes)
    taken = narrowed(analysis, axes, dim, position, position + 1)
    return [taken[:dim] + taken[dim + 1 :]]


def slice_(analysis: Analysis, call: Call) -> list[AxisTerms]:
    value: Value = call.args[0]
    axes, dim = analysis.of(value), call.arg("dim") % len(value.shape)
    start, stop, _ = slice(call.arg("start"), call.arg("end")).indices(value.shape[dim])
    return [strided(analysis, call, axes, dim, range(start, max(start, stop), call.arg("step")))]


def strided(analysis: Analysis, call: Call, axes: AxisTerms, dim: int, taken: range) -> AxisTerms:
    """Return the axes of a slice; every k-th unit is a slice of the inner factor k.

    Where parts alternate it is one of k parts that do.
    """
    size = extent(axes[dim])
    if taken.step == 1:
        return narrowed(analysis, axes, dim, taken.start, taken.stop)
    if size % taken.step or len(taken) * taken.step != size:
        return _lost(analysis, axes, dim, len(taken), f"every {taken.step}th of {size}")
    if isinstance(analysis.terms.resolve(axes[dim]), InterleavedTerm):
        rows = analysis.terms.in_turn(axes[dim], taken.step)
        if rows:
            return (*axes[:dim], rows[taken.start % taken.step], *axes[dim + 1 :])
    outer, inner = analysis.terms.split(axes[dim], size // taken.step)
    alone = taken.start % taken.step
    analysis.terms.cut(inner, [end for end in (alone, alone + 1) if 0 < end < taken.step])
    return (*axes[:dim], outer, *axes[dim + 1 :])


def _lost(analysis: Analysis, axes: AxisTerms, dim: int, size: int, text: str) -> AxisTerms:
    """Return the axes with one frozen and replaced by a frozen one of another size."""
    soft = not analysis.terms.is_frozen(axes[dim])
    analysis.freeze([axes[dim]], text, soft=True)
    return axes[:dim] + analysis.frozen([size], text, soft=soft) + axes[dim + 1 :]


def narrowed(analysis: Analysis, axes: AxisTerms, dim: int, start: int, stop: int) -> AxisTerms:
    """Return the axes after keeping the units from start to stop of one of them."""
    term, size = axes[dim], extent(axes[dim])
    if stop - start == size:
        return axes
    if stop == start:
        return axes[:dim] + analysis.frozen([0], "empty") + axes[dim + 1 :]
    if isinstance(term, Atom) and any(_hangs_on(other, term) for other in axes):
        return _narrowed_index(analysis, axes, dim, start, stop)
    if analysis.terms.is_frozen(term) and stop - start > 1:
        return (
            axes[:dim] + analysis.frozen([stop - start], "part of a fixed axis") + axes[dim + 1 :]
        )
    offsets = [offset for offset in (start, stop) if 0 < offset < size]
    pieces = analysis.terms.cut(term, offsets)
    return (*axes[:dim], pieces[1 if start else 0], *axes[dim + 1 :])


def _hangs_on(term: AxisTerm, index: Atom) -> bool:
    return isinstance(term, Dependent) and term.index is index


def _narrowed_index(
    analysis: Analysis, axes: AxisTerms, dim: int, start: int, stop: int
) -> AxisTerms:
    """Keep part of an axis on which others depend: of those, only the cases in that part."""
    index = axes[dim]
    assert isinstance(index, Atom)
    dependents = [term for term in axes if _hangs_on(term, index)]
    assert isinstance(dependents[0], Dependent)
    inside = [offset for offset in (start, stop) if 0 < offset < index.size]
    analysis.terms.cut(index, inside)
    kept: dict[int, AxisTerm] = {}
    at = 0
    for case, segment in enumerate(dependents[0].segments):
        low, high = max(start - at, 0), min(stop - at, extent(segment))
        if low < high:
            kept[case] = narrowed(analysis, (segment,), 0, low, high)[0]
        at += extent(segment)
    segments = tuple(kept.values())
    if len(segments) == 1:
        part, new = segments[0], None
    else:
        part = new = Atom(stop - start)
        analysis.terms.inherit(new, index, start)
        analysis.terms.unify(new, SumTerm(segments))
    result = list(axes)
    for place, term in enumerate(axes):
        if isinstance(term, Dependent) and term.index is index:
            cases = tuple(term.cases[case] for case in kept)
            result[place] = Dependent(new, segments, cases) if new is not None else cases[0]
    result[dim] = part
    return tuple(result)


def split(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Any operator that cuts an axis into the pieces which its results are."""
    value: Value = call.args[0]
    axes, dim = analysis.of(value), call.arg("dim") % len(value.shape)
    pieces, start = [], 0
    for result in call.results:
        assert result is not None
        stop = start + result.shape[dim]
        pieces.append(narrowed(analysis, axes, dim, start, stop))
        start = stop
    return pieces


def unbind(analysis: Analysis, call: Call) -> list[AxisTerms]:
    value: Value = call.args[0]
    axes, dim = analysis.of(value), call.arg("dim") % len(value.shape)
    taken = [narrowed(analysis, axes, dim, k, k + 1) for k in range(value.shape[dim])]
    return [piece[:dim] + piece[dim + 1 :] for piece in taken]


RULES: dict[str, OperatorRule] = {
    "select": select,
    "slice": slice_,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), split),
    "unbind": unbind,
}

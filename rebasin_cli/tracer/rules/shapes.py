"""Rules of operators that only rearrange axes: views, copies, concatenations, padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    Atom,
    AxisTerm,
    Dependent,
    SumTerm,
    add,
    extent,
    multiply,
)
from rebasin_cli.tracer.recording.record import Call
from rebasin_cli.tracer.rules.slices import narrowed
from rebasin_cli.tracer.rules.views import regroup


def identity(analysis: Analysis, call: Call) -> list[AxisTerms]:
    return [analysis.of(call.args[0])]


def view(analysis: Analysis, call: Call) -> list[AxisTerms]:
    result = call.result
    return [regroup(analysis, call, analysis.of(call.args[0]), result.shape)]


def unsqueeze(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = list(analysis.of(call.args[0]))
    axes.insert(call.arg("dim") % (len(axes) + 1), ONE)
    return [tuple(axes)]


def squeeze(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    dims = call.arg("dim") if call.has("dim") else range(len(axes))
    gone = {dim % len(axes) for dim in ([dims] if isinstance(dims, int) else dims)} if axes else ()
    shape = call.args[0].shape
    return [tuple(t for dim, t in enumerate(axes) if dim not in gone or shape[dim] != 1)]


def permute(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    return [tuple(axes[dim] for dim in call.arg("dims"))]


def transpose(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = list(analysis.of(call.args[0]))
    if len(axes) > 1:
        one, two = (call.arg("dim0"), call.arg("dim1")) if call.has("dim0") else (0, 1)
        axes[one], axes[two] = axes[two], axes[one]
    return [tuple(axes)]


def expand(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Keep axes; one of size 1 that is repeated becomes a free axis, its copies are all alike."""
    axes, shape = analysis.of(call.args[0]), call.result.shape
    padded = (ONE,) * (len(shape) - len(axes)) + axes
    return [
        tuple(
            term if extent(term) == size else analysis.terms.atom(size)
            for term, size in zip(padded, shape, strict=True)
        )
    ]


def repeat(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, times = analysis.of(call.args[0]), call.arg("repeats")
    padded = (ONE,) * (len(times) - len(axes)) + axes
    return [
        tuple(
            term
            if count == 1
            else multiply([analysis.terms.atom(count), analysis.terms.collapse(term)])
            for count, term in zip(times, padded, strict=True)
        )
    ]


def cat(analysis: Analysis, call: Call) -> list[AxisTerms]:
    values = [value for value in call.args[0] if prod(value.shape) or len(value.shape) > 1]
    dim = call.arg("dim") % len(values[0].shape)
    # A piece of no length adds no units: what a model cut off a text that was too short.
    long = [value for value in values if value.shape[dim]] or values[:1]
    return [joined(analysis, [analysis.of(value) for value in long], dim)]


def stack(analysis: Analysis, call: Call) -> list[AxisTerms]:
    rows = [analysis.of(value) for value in call.args[0]]
    dim = call.arg("dim") % (len(rows[0]) + 1)
    return [joined(analysis, [(*row[:dim], ONE, *row[dim:]) for row in rows], dim)]


def joined(analysis: Analysis, rows: Sequence[AxisTerms], dim: int) -> AxisTerms:
    """Return the axes of a concatenation.

    Slices of size 1 may mean different things along their other axes; larger pieces may not.
    """
    if len(rows) == 1:
        return rows[0]
    pieces = [analysis.terms.collapse(row[dim]) for row in rows]
    if all(piece == ONE for piece in pieces):
        return _stacked_axes(analysis, rows, dim)
    for row in rows[1:]:
        for place, (one, two) in enumerate(zip(rows[0], row, strict=True)):
            if place != dim:
                analysis.terms.unify(one, two)
    return (*rows[0][:dim], add(pieces), *rows[0][dim + 1 :])


def _stacked_axes(analysis: Analysis, rows: Sequence[AxisTerms], dim: int) -> AxisTerms:
    index = Atom(len(rows))
    segments = (ONE,) * len(rows)
    analysis.terms.unify(index, SumTerm(segments))
    axes: list[AxisTerm] = []
    for terms in zip(*rows, strict=True):
        plain = [analysis.terms.collapse(term) for term in terms]
        same = len({analysis.terms.resolve(term) for term in plain}) == 1
        axes.append(plain[0] if same else Dependent(index, segments, tuple(plain)))
    axes[dim] = index
    return tuple(axes)


def pad(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Constant padding puts fixed segments around an axis; negative padding cuts it."""
    axes, widths = analysis.of(call.args[0]), call.arg("pad")
    for pair in range(len(widths) // 2):
        before, after = widths[2 * pair : 2 * pair + 2]
        axes = _padded_axis(analysis, axes, len(axes) - 1 - pair, before, after)
    return [axes]


def _padded_axis(
    analysis: Analysis, axes: AxisTerms, dim: int, before: int, after: int
) -> AxisTerms:
    size = extent(axes[dim])
    axes = narrowed(analysis, axes, dim, max(-before, 0), size - max(-after, 0))
    if before <= 0 and after <= 0:
        return axes
    inner = analysis.terms.collapse(axes[dim])
    outside = [analysis.frozen([max(width, 0)], "padding") for width in (before, after)]
    row = [*(outside[0] if before > 0 else ()), inner, *(outside[1] if after > 0 else ())]
    return (*axes[:dim], add(row), *axes[dim + 1 :])


def reordered(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Flip and roll: the order of units matters, and the result has another one."""
    axes = analysis.of(call.args[0])
    chosen = [dim % len(axes) for dim in call.arg("dims")] or range(len(axes))
    analysis.freeze([axes[dim] for dim in chosen], "units change places")
    analysis.mix(axes, chosen)
    moved = analysis.frozen([extent(axes[dim]) for dim in chosen], "units change places")
    places = dict(zip(chosen, moved, strict=True))
    return [tuple(places.get(dim, term) for dim, term in enumerate(axes))]


def triangle(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    analysis.freeze(axes[-2:], "triangle of a matrix")
    return [axes]


def glu(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, dim = analysis.of(call.args[0]), call.arg("dim")
    dim %= len(axes)
    half = extent(axes[dim]) // 2
    one = narrowed(analysis, axes, dim, 0, half)
    two = narrowed(analysis, axes, dim, half, 2 * half)
    analysis.terms.unify_all(one, two)
    return [one]


def windows(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`Tensor.unfold`: windows along one axis, as a new last axis."""
    axes, dim = analysis.of(call.args[0]), call.arg("dimension")
    dim %= len(axes)
    analysis.freeze([axes[dim]], "windows")
    analysis.mix(axes, [dim])
    shape = call.result.shape
    count, width = analysis.frozen([shape[dim], shape[-1]], "windows")
    return [(*axes[:dim], count, *axes[dim + 1 :], width)]


def to_complex(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    analysis.freeze(axes[-1:], "real and imaginary part")
    return [axes[:-1]]


def to_real(analysis: Analysis, call: Call) -> list[AxisTerms]:
    return [(*analysis.of(call.args[0]), *analysis.frozen([2], "real and imaginary part"))]


RULES: dict[str, OperatorRule] = {
    **dict.fromkeys(
        ("clone", "detach", "alias", "_to_copy", "lift_fresh", "lift", "contiguous", "positive"),
        identity,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"), view),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "permute": permute,
    **dict.fromkeys(("transpose", "t", "numpy_T"), transpose),
    "expand": expand,
    "repeat": repeat,
    "cat": cat,
    "stack": stack,
    "constant_pad_nd": pad,
    **dict.fromkeys(("flip", "roll"), reordered),
    **dict.fromkeys(("tril", "triu"), triangle),
    "glu": glu,
    "unfold": windows,
    "view_as_complex": to_complex,
    "view_as_real": to_real,
}

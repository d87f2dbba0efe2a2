"""The rule of `as_strided`: a tensor whose elements are found by their places in memory."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import AxisTerm
from rebasin_cli.tracer.recording.record import Call, Value

SizeAndStride = tuple[int, int]  # the size of an axis, and its step in memory


def restrided(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Keep the axes that are whole in the result; windows along others fix their order."""
    value, axes = call.args[0], analysis.of(call.args[0])
    if _relaid(call):
        return [axes]
    kept = _whole_axes(call, value)
    fixed = [k for k, size in enumerate(value.shape) if size > 1 and k not in kept.values()]
    soft = not kept
    text = "as_strided" if soft else "windows"
    analysis.freeze([axes[k] for k in fixed], text, soft=soft)
    if soft:  # what a view leaves out may be read too
        analysis.freeze(analysis.of(value.root), text, soft=True)
    analysis.mix(axes, fixed)
    made: list[AxisTerm] = [
        axes[kept[place]] if place in kept else analysis.frozen([size], text, soft=soft)[0]
        for place, size in enumerate(call.arg("size"))
    ]
    return [tuple(made)]


def _relaid(call: Call) -> bool:
    """Return whether the result is the same tensor, or a new layout that is written to later.

    That is what `as_strided_` is for in channels-last kernels. With two axes of one size it might
    also swap them.
    """
    value, size, strides = call.args[0], tuple(call.arg("size")), tuple(call.arg("stride"))
    if size != value.shape or _start(call) != value.offset:
        return False
    long = [n for n in size if n > 1]
    return strides == value.strides or (call.name == "as_strided_" and len(set(long)) == len(long))


def _whole_axes(call: Call, value: Value) -> dict[int, int]:
    """Return result axis -> argument axis, where a position on the one is one on the other."""
    given = list(zip(value.shape, value.strides, strict=False))
    made = list(zip(call.arg("size"), call.arg("stride"), strict=True))
    last = sum((size - 1) * step for size, step in made)
    if not _dense(given) or _start(call) != value.offset or last >= _count(given):
        return {}
    return {
        place: k
        for place, dim in enumerate(made)
        for k, source in enumerate(given)
        if dim == source and dim[0] > 1 and _alone(made[:place] + made[place + 1 :], dim)
    }


def _start(call: Call) -> int:
    offset = call.arg("storage_offset")
    return int(call.args[0].offset if offset is None else offset)


def _dense(dims: Sequence[SizeAndStride]) -> bool:
    """Return whether a tensor fills its part of memory, each place once, in any order of axes."""
    expected = 1
    for size, step in sorted((d for d in dims if d[0] > 1), key=lambda dim: dim[1]):
        if step != expected:
            return False
        expected *= size
    return bool(dims)


def _count(dims: Sequence[SizeAndStride]) -> int:
    count = 1
    for size, _ in dims:
        count *= size
    return count


def _alone(others: Sequence[SizeAndStride], dim: SizeAndStride) -> bool:
    """Return whether no step along other axes changes the position along this one.

    That is (address // step) % size in a dense tensor: steps of other axes are whole multiples of
    what the axis spans, or stay below its step all together.
    """
    size, step = dim
    inner = [(n, s) for n, s in others if n > 1 and s % (size * step)]
    return sum((n - 1) * s for n, s in inner) < step


RULES: dict[str, OperatorRule] = {"as_strided": restrided}

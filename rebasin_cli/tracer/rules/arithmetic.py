"""Rules of operators that compute: element by element, sums of products, reductions, norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from math import gcd, prod

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    AxisTerm,
    Dependent,
    SumTerm,
    add,
    boundaries,
    extent,
    whole_rows,
)
from rebasin_cli.tracer.axes.bindings import ALTERNATING
from rebasin_cli.tracer.recording.record import Call, Value, values_in


def pointwise(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Element by element, with broadcasting: axes that meet are one."""
    rows = [analysis.of(value) for value in call.operands]
    return [broadcast(analysis, rows, call.result.shape)]


def broadcast(analysis: Analysis, rows: Iterable[AxisTerms], shape: Sequence[int]) -> AxisTerms:
    """Unify the axes of several tensors from the last dimension on, and return the widest."""
    axes: list[AxisTerm] = [ONE] * len(shape)
    rows = list(rows)
    for crossing in _crossing(rows):
        analysis.terms.collapse(crossing)
    dependent_first = sorted(rows, key=lambda row: not any(isinstance(t, Dependent) for t in row))
    for row in dependent_first:
        for dim, term in enumerate(row, len(shape) - len(row)):
            if extent(term) == 1 or extent(term) != shape[dim]:
                continue
            if axes[dim] == ONE:
                axes[dim] = term
            else:
                analysis.terms.unify(axes[dim], term)
    missing = (dim for dim, size in enumerate(shape) if extent(axes[dim]) != size)
    for dim in missing:
        axes[dim] = analysis.terms.atom(shape[dim])
    return tuple(axes)


def _crossing(rows: Sequence[AxisTerms]) -> Iterator[Dependent]:
    """Yield the terms that meet others whose index stands in another place: all their cases meet.

    In x[:, None] * y[None] each row of x is multiplied by each of y, also of two segments.
    """
    for met in zip_longest(*(reversed(row) for row in rows), fillvalue=ONE):
        found = [(t, row) for t, row in zip(met, rows, strict=True) if isinstance(t, Dependent)]
        places = {
            tuple(k - len(row) for k, axis in enumerate(row) if axis is term.index)
            for term, row in found
        }
        if len(places) > 1:
            yield from (term for term, _ in found)


def contract(
    analysis: Analysis, one: AxisTerms, two: AxisTerms, dims: tuple[int, int], *, batch: int = 0
) -> AxisTerms:
    """Return the axes of a sum of products over one dimension of each of two tensors.

    The first `batch` dimensions of both go together; then come the others of the first and of
    the second.
    """
    left, right = dims[0] % len(one), dims[1] % len(two)
    # Whatever is no batch of both meets all of the other, also what depends on another segment.
    for term, axes in ((one[left], one), (two[right], two)):
        if isinstance(term, Dependent) and not any(axis is term.index for axis in axes[:batch]):
            analysis.terms.collapse(term)
    analysis.terms.unify(one[left], two[right])
    analysis.terms.unify_all(one[:batch], two[:batch])
    analysis.mix(one, [left])
    analysis.mix(two, [right])
    rest_one = tuple(term for dim, term in enumerate(one) if dim >= batch and dim != left)
    rest_two = tuple(term for dim, term in enumerate(two) if dim >= batch and dim != right)
    analysis.meet((*one[:batch], one[left]), (*rest_one, *rest_two))
    return (*one[:batch], *rest_one, *rest_two)


def product(
    analysis: Analysis, one: Value, two: Value, dims: tuple[int, int], *, batch: int = 0
) -> AxisTerms:
    """Return the axes of a sum of products of two values; see `contract`."""
    left, right = analysis.of(one), analysis.of(two)
    analysis.read(one, left[dims[0]])
    analysis.read(two, right[dims[1]])
    return contract(analysis, left, right, dims, batch=batch)


def mm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    return [product(analysis, call.args[0], call.args[1], (-1, 0))]


def bmm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    return [product(analysis, call.args[0], call.args[1], (2, 1), batch=1)]


def addmm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """A matrix or matrix-vector product, batched or not, added to the first argument."""
    added, one, two = call.args[:3]
    batch = int(len(two.shape) == 3)
    made = product(analysis, one, two, (-1, batch), batch=batch)
    return [broadcast(analysis, [made, analysis.of(added)], [extent(term) for term in made])]


def linear(analysis: Analysis, call: Call) -> list[AxisTerms]:
    made = product(analysis, call.args[0], call.args[1], (-1, 1))
    if call.arg("bias") is not None:
        analysis.terms.unify(made[-1], analysis.of(call.arg("bias"))[0])
    return [made]


def distances(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Each row of one matrix with each of another; batches are broadcast."""
    one, two = analysis.of(call.args[0]), analysis.of(call.args[1])
    rows = (*one[:-1], ONE, one[-1]), (*two[:-2], ONE, *two[-2:])
    whole = broadcast(analysis, rows, (*call.result.shape, extent(one[-1])))
    for row in rows:
        analysis.mix(row, [-1])
    analysis.meet((*whole[:-3], whole[-1]), whole[-3:-1])
    return [whole[:-1]]


def trilinear(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """The sum over some dimensions of a product of three tensors that are expanded first."""
    rows = []
    for value, name in zip(call.args[:3], ("expand1", "expand2", "expand3"), strict=True):
        axes = list(analysis.of(value))
        for dim in sorted(call.arg(name)):
            axes.insert(dim, ONE)
        rows.append(tuple(axes))
    shape = [max(extent(row[dim]) for row in rows) for dim in range(len(rows[0]))]
    whole = broadcast(analysis, rows, shape)
    for row in rows:
        analysis.mix(row, call.arg("sumdim"))
    return [tuple(term for dim, term in enumerate(whole) if dim not in call.arg("sumdim"))]


def reduction(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Sums, means, norms, extremes along dimensions: their order does not matter."""
    axes, dims = analysis.of(call.args[0]), reduced(call)
    analysis.mix(axes, dims)
    keep = call.has("keepdim") and call.arg("keepdim")
    kept = tuple(
        ONE if dim in dims else term for dim, term in enumerate(axes) if keep or dim not in dims
    )
    return [kept] * len(call.results)


def reduced(call: Call) -> set[int]:
    """Return the dimensions over which an operator reduces; none named means all."""
    rank = len(call.args[0].shape)
    given = call.arg("dim") if call.has("dim") else None
    dims = [given] if isinstance(given, int) else given
    return {dim % rank for dim in dims} if dims else set(range(rank))


def softmax(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    if axes:
        analysis.mix(axes, [call.arg("dim")])
    return [axes]


def scan(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Cumulative sums and the like: the order along the dimension matters."""
    axes, dim = analysis.of(call.args[0]), call.arg("dim")
    analysis.freeze([axes[dim]], "cumulative along the axis")
    analysis.mix(axes, [dim])
    return [axes] * len(call.results)


def layer_norm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    count = len(call.arg("normalized_shape"))
    for name in ("weight", "bias"):
        if call.has(name) and call.arg(name) is not None:
            analysis.terms.unify_all(axes[-count:], analysis.of(call.arg(name)))
    analysis.mix(axes, range(len(axes) - count, len(axes)))
    statistics = (*axes[:-count], *[ONE] * count)
    return [axes, statistics, statistics]


def batch_norm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes = analysis.of(call.args[0])
    names = ("weight", "bias", "running_mean", "running_var")
    for value in values_in([call.arg(name) for name in names if call.has(name)]):
        analysis.terms.unify(axes[1], analysis.of(value)[0])
    analysis.mix(axes, [dim for dim in range(len(axes)) if dim != 1])
    sizes = [result.shape if result is not None else () for result in call.results[1:]]
    channel = extent(axes[1])
    kept = [(axes[1],) if size == (channel,) else analysis.frozen(size, "empty") for size in sizes]
    return [axes, *kept]


def group_norm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, groups = analysis.of(call.args[0]), call.arg("group")
    rows = _norm_groups(analysis, axes[1], extent(axes[1]) // groups)
    for value in values_in([call.arg("weight"), call.arg("bias")]):
        analysis.terms.unify(axes[1], analysis.of(value)[0])
    for outer, inner in rows:
        analysis.mix((axes[0], outer, inner, *axes[2:]), range(2, len(axes) + 1))
    statistics = (axes[0], add([outer for outer, _ in rows]))
    return [axes, statistics, statistics]


def _norm_groups(
    analysis: Analysis, channels: AxisTerm, size: int
) -> list[tuple[AxisTerm, AxisTerm]]:
    """Return the groups of a norm and what is mixed in each, segment by segment.

    Where groups cross the segments of a concatenation, the largest pieces of one size that no
    boundary of either cuts keep their places, and the units inside each piece are free. Where
    such pieces are single units, segments are cut at the groups' boundaries instead.
    """
    term = analysis.terms.resolve(analysis.terms.collapse(channels))
    pairs: list[tuple[AxisTerm, AxisTerm]] = []
    for row in whole_rows(term.segments if isinstance(term, SumTerm) else [term], size):
        count, crossed = extent(row) // size, f"groups of {size} cross a concatenation"
        if isinstance(row, SumTerm) and count > 1:
            for start, segment in zip((0, *boundaries(row.segments)), row.segments, strict=True):
                common = gcd(size, start, extent(segment))
                inside = [at for at in range(-start % size, extent(segment), size) if at]
                if common == 1 and len(inside) < ALTERNATING:
                    analysis.terms.cut(segment, inside)
                    continue
                places, _ = analysis.terms.split(segment, extent(segment) // common)
                analysis.freeze([places], crossed, soft=True)
            pairs.append((analysis.frozen([count], crossed)[0], row))
        else:
            pairs.append(analysis.terms.split(row, count))
    return pairs


def weight_norm(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, scale = analysis.of(call.args[0]), analysis.of(call.args[1])
    for one, two in zip(axes, scale, strict=False):
        if extent(two) != 1:
            analysis.terms.unify(one, two)
    kept = call.arg("dim") % len(axes)
    analysis.mix(axes, [dim for dim in range(len(axes)) if dim != kept])
    return [axes, scale]


def outer(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`addr`: the outer product of two vectors, added to a matrix."""
    one, two = analysis.of(call.args[1])[0], analysis.of(call.args[2])[0]
    return [
        broadcast(analysis, [(one, two), analysis.of(call.args[0])], (extent(one), extent(two)))
    ]


def written(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Fill a tensor with one number: its axes stay what they are."""
    value: Value = call.args[0]
    return [analysis.of(value) if prod(value.shape) else analysis.frozen(value.shape, "empty")]


RULES: dict[str, OperatorRule] = {
    **dict.fromkeys(("mm", "mv", "dot", "vdot"), mm),
    "bmm": bmm,
    **dict.fromkeys(("addmm", "addmv", "baddbmm", "_addmm_activation"), addmm),
    "linear": linear,
    "_cdist_forward": distances,
    "_trilinear": trilinear,
    "addr": outer,
    **dict.fromkeys(
        (
            *("sum", "mean", "prod", "amax", "amin", "aminmax", "all", "any", "norm", "nansum"),
            *("var", "std", "var_mean", "std_mean", "logsumexp", "linalg_vector_norm"),
            *("count_nonzero", "_is_all_true", "_is_any_true"),
        ),
        reduction,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "softmax"), softmax),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"), scan),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(
        (
            *("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"),
            *("_native_batch_norm_legit_no_training", "_batch_norm_no_update"),
        ),
        batch_norm,
    ),
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
    **dict.fromkeys(("fill", "zero", "normal_", "uniform_"), written),
    **dict.fromkeys(
        ("copy", "masked_fill", "_prelu_kernel", "where", "floor_divide", "hardswish"), pointwise
    ),
}

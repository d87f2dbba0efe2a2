"""Rules of operators that look up, rank and scatter.

An index tensor whose numbers name units of an axis (its domain: the experts that a top-k chose)
ties that axis to every axis it looks into; any other index fixes the order it looks into.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, LookUp, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import ONE, AxisTerm, extent
from rebasin_cli.tracer.recording.record import MASKS, Call, Value
from rebasin_cli.tracer.rules.arithmetic import broadcast, pointwise, reduced
from rebasin_cli.tracer.rules.slices import narrowed

LOOKED_UP = "looked up by index"


def looked_into(
    analysis: Analysis, axes: AxisTerms, dim: int, index: Value, *, text: str = LOOKED_UP
) -> None:
    """Tie an axis to the domain of the index that looks into it, or freeze it."""
    term = axes[dim]
    domain = analysis.domain(index)
    if domain is not None and extent(domain) == extent(term):
        analysis.terms.unify(term, domain)
        beside = tuple(other for place, other in enumerate(axes) if place != dim % len(axes))
        which = analysis.identity(index)
        analysis.look_ups.append(LookUp(analysis.of(index), domain, which, beside))
        return
    if domain is not None:
        analysis.freeze([domain], text)
    analysis.freeze([term], text)
    analysis.mix(axes, [dim])


def embedding(analysis: Analysis, call: Call) -> list[AxisTerms]:
    table, index = analysis.of(call.args[0]), call.args[1]
    looked_into(analysis, table, 0, index, text="embedding rows")
    analysis.read(call.args[0], table[0])
    return [(*analysis.of(index), *table[1:])]


def embedding_bag(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Rows of a table, summed, averaged or compared in bags that are stretches of the index.

    Where the largest of a bag is taken, its place is a result too, of the same axes.
    """
    table = analysis.of(call.args[0])
    looked_into(analysis, table, 0, call.args[1], text="embedding rows")
    analysis.read(call.args[0], table[0])
    for value in call.operands[1:]:
        analysis.freeze(analysis.of(value), "places in bags")
    shapes = [() if value is None else value.shape for value in call.results]
    made = (*analysis.frozen(shapes[0][:1], "bags"), table[1])
    return [made if len(shape) == 2 else analysis.frozen(shape, "bags") for shape in shapes]


def packed(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Steps of sequences of several lengths, one after another; what each step has is free."""
    axes, text = analysis.of(call.args[0]), "packed sequences"
    analysis.freeze([*axes[:2], *analysis.of(call.args[1])], text)
    rows, counts = (() if value is None else value.shape for value in call.results)
    return [(*analysis.frozen(rows[:1], text), *axes[2:]), analysis.frozen(counts, text)]


def index(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`x[i, j, ...]` with tensors: their broadcast shape stands where the first of them stood."""
    value, given = call.args[0], call.args[1]
    axes, run = analysis.of(value), _contiguous_run(given, value.shape)
    if run is not None:
        dim, start, stop = run
        return [narrowed(analysis, axes, dim, start, stop)]
    into, chosen = _indexed(analysis, axes, given)
    rest = [term for dim, term in enumerate(axes) if dim not in into]
    first = into[0] if into == list(range(into[0], into[-1] + 1)) else 0
    return [(*rest[:first], *chosen, *rest[first:])]


def _contiguous_run(
    given: Sequence[Value | None], shape: Sequence[int]
) -> tuple[int, int, int] | None:
    """Return (dimension, start, stop) if the only index is a constant run of integers."""
    used = [(dim, value) for dim, value in enumerate(given) if value is not None]
    if len(used) != 1:
        return None
    dim, value = used[0]
    data = value.data if value.root.source == "constant" else None
    if data is None or data.dim() != 1 or data.dtype != torch.int64 or not len(data):
        return None
    numbers = [number % shape[dim] for number in data.tolist()]
    steps = {after - before for before, after in pairwise(numbers)}
    return (dim, numbers[0], numbers[-1] + 1) if steps <= {1} else None


def _indexed(
    analysis: Analysis, axes: AxisTerms, given: Sequence[Value | None]
) -> tuple[list[int], AxisTerms]:
    """Tie the axes that are looked into; return their positions and the axes of the indices.

    A mask looks into as many axes as it has; what it chooses has no fixed number.
    """
    into: list[int] = []
    rows: list[AxisTerms] = []
    dim = 0
    for value in given:
        if value is None:
            dim += 1
        elif value.dtype in MASKS:
            covered = range(dim, dim + len(value.shape))
            analysis.freeze([*(axes[d] for d in covered), *analysis.of(value)], "chosen by a mask")
            into.extend(covered)
            dim = covered.stop
        else:
            looked_into(analysis, axes, dim, value)
            rows.append(analysis.of(value))
            into.append(dim)
            dim += 1
    rank = max((len(row) for row in rows), default=1)
    shape = [
        max(extent(row[d - rank]) if rank - d <= len(row) else 1 for row in rows)
        for d in range(rank)
    ] if rows else []  # fmt: skip
    return into, broadcast(analysis, rows, shape)


def masked(analysis: Analysis, call: Call) -> list[AxisTerms] | None:
    """Return the axes of an index that holds a mask, whose result has an unknown length."""
    value, given = call.args[0], call.args[1]
    axes = analysis.of(value)
    into, _ = _indexed(analysis, axes, given)
    result = call.result
    rest = [term for dim, term in enumerate(axes) if dim not in into]
    first = into[0] if into == list(range(into[0], into[-1] + 1)) else 0
    chosen = result.shape[first : first + len(result.shape) - len(rest)]
    return [(*rest[:first], *analysis.frozen(chosen, "chosen by a mask"), *rest[first:])]


def index_any(analysis: Analysis, call: Call) -> list[AxisTerms]:
    given = [value for value in call.args[1] if value is not None]
    if any(value.dtype in MASKS for value in given):
        return masked(analysis, call) or []
    return index(analysis, call)


def index_select(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, dim, chosen = analysis.of(call.args[0]), call.arg("dim"), call.arg("index")
    dim %= len(axes)
    looked_into(analysis, axes, dim, chosen)
    return [(*axes[:dim], *(analysis.of(chosen) or (ONE,)), *axes[dim + 1 :])]


def gather(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """out[i, j] = x[i, index[i, j]]: the other axes go together."""
    axes, dim, chosen = analysis.of(call.args[0]), call.arg("dim"), call.arg("index")
    row = analysis.of(chosen)
    looked_into(analysis, axes, dim, chosen)
    _together(analysis, axes, row, dim)
    return [row]


def _together(analysis: Analysis, axes: AxisTerms, row: AxisTerms, dim: int) -> None:
    """Unify two rows of axes but for one; where the second is shorter, both are frozen."""
    for place, (one, two) in enumerate(zip(axes, row, strict=True)):
        if place == dim % len(axes):
            continue
        if extent(one) == extent(two):
            analysis.terms.unify(one, two)
        else:
            analysis.freeze([one, two], "looked up in part")


def scatter(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """x[i, index[i, j]] = source[i, j], added or not."""
    axes, dim, chosen = analysis.of(call.args[0]), call.arg("dim"), call.arg("index")
    row = analysis.of(chosen)
    looked_into(analysis, axes, dim, chosen)
    _together(analysis, axes, row, dim)
    source = call.arg("src") if call.has("src") else None
    if isinstance(source, Value):
        for one, two in zip(row, analysis.of(source), strict=True):
            if extent(one) == extent(two):
                analysis.terms.unify(one, two)
            else:
                analysis.freeze([one, two], "scattered in part")
    return [axes]


def index_add(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """x[index[j], ...] += source[j, ...], for `index_add` and `index_copy`."""
    axes, dim, chosen = analysis.of(call.args[0]), call.arg("dim"), call.arg("index")
    source = analysis.of(call.arg("source"))
    looked_into(analysis, axes, dim, chosen)
    _together(analysis, axes, source, dim)
    if extent(source[dim]) > 1:
        analysis.terms.unify(source[dim], analysis.of(chosen)[0])
    return [axes]


def index_put(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`x[i, j] = values`: the values have the axes that `x[i, j]` would have."""
    axes, values = analysis.of(call.args[0]), call.args[2]
    given = [value for value in call.args[1] if value is not None]
    into, chosen = _indexed(analysis, axes, call.args[1])
    rest = [term for dim, term in enumerate(axes) if dim not in into]
    first = into[0] if into == list(range(into[0], into[-1] + 1)) else 0
    if any(value.dtype in MASKS for value in given):
        count = len(values.shape) - len(rest) + first
        shape = values.shape[first:count] if count > first else ()
        chosen = analysis.frozen(shape or (1,), "chosen by a mask")
    picked = (*rest[:first], *chosen, *rest[first:])
    broadcast(analysis, [picked, analysis.of(values)], [extent(term) for term in picked])
    return [axes]


def slice_scatter(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, dim, size = analysis.of(call.args[0]), call.arg("dim"), call.args[0].shape
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step")).indices(
        size[dim]
    )
    source = analysis.of(call.args[1])
    if step != 1:
        analysis.freeze([axes[dim], source[dim]], "scattered in part", soft=True)
        _together(analysis, axes, source, dim)
        return [axes]
    analysis.terms.unify_all(narrowed(analysis, axes, dim % len(axes), start, stop), source)
    return [axes]


def select_scatter(analysis: Analysis, call: Call) -> list[AxisTerms]:
    axes, dim = analysis.of(call.args[0]), call.arg("dim") % len(call.args[0].shape)
    position = call.arg("index") % call.args[0].shape[dim]
    taken = narrowed(analysis, axes, dim, position, position + 1)
    analysis.terms.unify_all(taken[:dim] + taken[dim + 1 :], analysis.of(call.args[1]))
    return [axes]


def masked_scatter(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Fill the places of a mask with the elements of a source, in order.

    Where the mask chooses whole rows, the last axes of both move together.
    """
    axes, mask, source = (analysis.of(value) for value in call.args[:3])
    whole = not mask or extent(mask[-1]) == 1 or not analysis.terms.is_frozen(mask[-1])
    broadcast(analysis, [axes, mask], [extent(term) for term in axes])
    analysis.freeze([*axes[:-1], *source[:-1]], "chosen by a mask")
    if whole and source and extent(axes[-1]) == extent(source[-1]):
        analysis.terms.unify(axes[-1], source[-1])
    else:
        analysis.freeze([*axes, *source], "chosen by a mask")
    return [axes]


def ranked(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Top-k and sort: the ranks are in fixed order, and each stands for a unit of the axis."""
    axes = analysis.of(call.args[0])
    if not axes:
        return [axes, axes]
    dim = (call.arg("dim") if call.has("dim") else -1) % len(axes)
    rank = analysis.frozen([call.result.shape[dim]], "rank")[0]
    analysis.mix(axes, [dim])
    made = (*axes[:dim], rank, *axes[dim + 1 :])
    _names(analysis, call, axes[dim])
    return [made] * len(call.results)


def extreme(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """The largest or smallest along a dimension, and where it is; or of two tensors."""
    if call.has("other"):
        return pointwise(analysis, call)
    axes = analysis.of(call.args[0])
    dims = reduced(call)
    if len(dims) == 1:
        _names(analysis, call, axes[next(iter(dims))])
    elif call.name.startswith("arg"):
        analysis.freeze(axes, "position in the flattened tensor")
    analysis.mix(axes, dims)
    keep = call.has("keepdim") and call.arg("keepdim")
    kept = tuple(
        ONE if dim in dims else term for dim, term in enumerate(axes) if keep or dim not in dims
    )
    return [kept] * len(call.results)


def _names(analysis: Analysis, call: Call, term: AxisTerm) -> None:
    """Say that the integer results name units of an axis."""
    if extent(term) == 1:
        return
    for value in call.results:
        if value is not None and value.dtype == torch.int64:
            analysis.domains[value] = analysis.terms.collapse(term)


def freezing(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Operators whose results depend on the order of all elements, or steer the program."""
    for value in call.operands:
        analysis.freeze(analysis.of(value), call.name)
    return [
        analysis.frozen(result.shape if result is not None else (), call.name)
        for result in call.results
    ]


RULES: dict[str, OperatorRule] = {
    "embedding": embedding,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), embedding_bag),
    "index": index_any,
    "_pack_padded_sequence": packed,
    "index_select": index_select,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("index_add", "index_copy"), index_add),
    **dict.fromkeys(("index_put", "_index_put_impl"), index_put),
    "slice_scatter": slice_scatter,
    "select_scatter": select_scatter,
    "masked_scatter": masked_scatter,
    **dict.fromkeys(("topk", "sort", "argsort"), ranked),
    **dict.fromkeys(("argmax", "argmin", "max", "min", "median", "mode", "kthvalue"), extreme),
    **dict.fromkeys(
        (
            *("_local_scalar_dense", "nonzero", "masked_select", "histc", "_unique2", "unique_dim"),
            *("bincount", "equal", "is_nonzero", "bucketize", "searchsorted"),
            *("torchvision::nms", "multinomial", "unique_consecutive"),
            *("repeat_interleave",),
        ),
        freezing,
    ),
}

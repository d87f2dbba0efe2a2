"""The rule of operators without one: what permuted numbers tell about their axes.

It is known of whole axes only: what a permutation for each index of another axis would do is not
tried, and so ruled out. Results that nobody reads may be anything: solving linear equations also
returns a factorisation, which knows the order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms
from rebasin_cli.tracer.axes.axis_terms import AxisTerm
from rebasin_cli.tracer.recording.record import Call, Value
from rebasin_cli.tracer.rules.equivariance import CallLayout, Operand, OperatorRelation, relations

ELEMENTS = 300_000  # of one tensor; above that a probe takes too long


def probe_operator(analysis: Analysis, call: Call) -> list[AxisTerms] | None:
    """Tie the axes of a call by what permuting them does; return None if it cannot be run.

    A tensor of integers or truth values is only run with the numbers that it had, so its call
    cannot be probed where they are not known.
    """
    values = tuple(dict.fromkeys(call.operands))
    layout = _layout(analysis, call, values)
    if layout is None:
        return None
    *arguments, kept = layout
    found = relations(call.op, *arguments, kept=kept)
    if found is None:
        return None
    rows = [tuple(analysis.terms.collapse(t) for t in analysis.of(value)) for value in values]
    for row in rows:
        for dim in range(len(row)):
            analysis.mix(row, [dim])
    return _tie_axes(analysis, call, rows, found, kept)


def _tie_axes(
    analysis: Analysis,
    call: Call,
    rows: Sequence[AxisTerms],
    found: Sequence[OperatorRelation],
    kept: Sequence[int],
) -> list[AxisTerms]:
    shapes = [() if result is None else result.shape for result in call.results]
    text = f"no rule for {call.name}; probing found no symmetry"
    made = [list(analysis.frozen(shape, text, soft=True)) for shape in shapes]
    free = {place for relation in found for place in relation.operands}
    for relation in found:
        first, *rest = [rows[k][dim] for k, dim in relation.operands]
        for other in rest:
            analysis.terms.unify(first, other)
        for k, dim in relation.results:
            made[kept[k]][dim] = first
    fixed: list[AxisTerm] = [
        term for k, row in enumerate(rows) for dim, term in enumerate(row) if (k, dim) not in free
    ]
    analysis.freeze(fixed, text, soft=True)
    return [tuple(row) for row in made]


def _layout(analysis: Analysis, call: Call, values: Sequence[Value]) -> CallLayout | None:
    """Return all that determines a call except the values of floating tensors; None: unknown."""
    if any(value not in call.results for value in call.written):
        return None
    operands: dict[Value, Operand] = {}
    for position, value in enumerate(values):
        operand = _operand(position, value)
        if operand is None:
            return None
        operands[value] = operand
    args, options = map_leaves((call.args, call.kwargs), Value, operands.__getitem__)
    every = range(len(call.results))
    kept = tuple(k for k in every if call.results[k] in analysis.used) or tuple(every)
    results = [call.results[k] for k in kept]
    shapes = tuple(None if result is None else result.shape for result in results)
    layout: CallLayout = _hashable(args), _hashable(options), shapes, kept
    return layout if _is_hashable(layout) else None


def _operand(position: int, value: Value) -> Operand | None:
    if prod(value.shape) > ELEMENTS:
        return None
    plain = Operand(position, value.shape, value.dtype, None)
    if plain.random:
        return plain
    if value.root.source != "constant" or type(value.data) is not Tensor:
        return None
    numbers = value.data.contiguous().numpy().tobytes()
    return Operand(position, value.shape, value.dtype, numbers)


def _hashable(tree: Any) -> Any:
    """Return nested lists and mappings as tuples: what is changed are the trees themselves."""
    if isinstance(tree, Mapping):
        return tuple((key, _hashable(item)) for key, item in tree.items())
    return tuple(map(_hashable, tree)) if isinstance(tree, tuple | list) else tree


def _is_hashable(tree: Any) -> bool:
    try:
        hash(tree)
    except TypeError:
        return False
    return True

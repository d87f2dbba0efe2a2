"""Axes whose order positions fix, and whose pairs of units may turn: queries and keys with RoPE.

Rotary positions multiply each pair of units, read as one complex number, by a number of modulus 1.
Complex numbers commute, so that all pairs may be multiplied by others (arXiv 2606.17830). How the
code pairs them is not looked at: both ways are tried, and running the model decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.model import (
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Product,
    Spec,
    Split,
    axis_names,
    leaves,
    parts_of,
    rewritten,
)
from rebasin_cli.tracer.axes.axis_terms import AxisTerm, SumTerm, extent
from rebasin_cli.tracer.classes.unit_states import UnitStates
from rebasin_cli.tracer.derivation.naming import shared_module
from rebasin_cli.tracer.recording.record import Call, Value

AxisOfTensor = tuple[str, int]


@dataclass(frozen=True)
class RotaryAxis:
    """Fixed units over which two activations are multiplied, and the axes that write them."""

    group: str
    size: int
    places: tuple[AxisOfTensor, ...]


def rotary_axes(
    states: UnitStates, calls: Sequence[Call], taken: Iterable[str]
) -> tuple[RotaryAxis, ...]:
    """Return the axes in the order of the calls, each once, under names that are not taken."""
    found: dict[tuple[AxisOfTensor, ...], RotaryAxis] = {}
    makers = {value: call for call in calls for value in call.results if value is not None}
    for call in calls:
        for size in _fixed_runs(states, call):
            writers = dict.fromkeys(w for v in call.operands for w in _writers(states, v, makers))
            places = tuple(_written(states, writers))
            if places and size % 2 == 0 and places not in found:
                base = f"{shared_module([tensor for tensor, _ in places])}rope"
                names = {*taken, *(axis.group for axis in found.values())}
                group = base if base not in names else f"{base}.part{len(found) + 1}"
                found[places] = RotaryAxis(group, size, places)
    return tuple(found.values())


def _fixed_runs(states: UnitStates, call: Call) -> Iterator[int]:
    """Yield the sizes of rows of fixed units over which two activations are multiplied."""
    if call.name != "bmm" or any(map(states.stored, call.operands)):
        return
    value: Value = call.args[0]
    term = states.axes(value)[2]
    run = 0
    segments: tuple[AxisTerm | None, ...] = term.segments if isinstance(term, SumTerm) else (term,)
    for segment in (*segments, None):
        if segment is not None and states.analysis.terms.is_frozen(segment):
            run += extent(segment)
        elif run:
            yield run
            run = 0


def _writers(states: UnitStates, value: Value, makers: Mapping[Value, Call]) -> Iterator[Value]:
    """Yield the parameters that an activation is made of, back to the weights that wrote it."""
    pending, seen = [value], {value}
    while pending:
        call = makers.get(pending.pop())
        operands = [v for v in (call.operands if call else ()) if v not in seen]
        seen.update(operands)
        weights = [v for v in operands if states.weighs(v)]
        originals = map(states.analysis.original, weights)
        yield from (v for v in originals if v.source.startswith("parameter"))
        # What a matrix is multiplied by is what the units are made from, and none of them.
        back = any(len(v.shape) > 1 for v in weights)
        pending += weights if back else operands


def _written(states: UnitStates, writers: Iterable[Value]) -> Iterator[AxisOfTensor]:
    """Yield the axes by which parameters write, by the first name of each."""
    first: dict[Value, str] = {}
    for name, value in states.analysis.record.tensors.items():
        first.setdefault(value, name)
    read = {(v, states.analysis.terms.resolve(term)) for v, term in states.analysis.reads}
    for value in writers:
        for axis, term in enumerate(states.axes(value)):
            if value in first and (value, term) not in read and extent(term) > 1:
                yield first[value], axis


def held_axes(spec: Spec, axes: Iterable[RotaryAxis]) -> list[RotaryAxis]:
    """Return the axes whose fixed units the spec has, of several with the same units the first.

    Values are multiplied over places: as many of them as turned units look like a second axis.
    """
    found = []
    for axis in axes:
        if _held(spec, axis):
            found.append(axis)
            spec = with_rotary(spec, axis)
    return found


def with_rotary(spec: Spec, axis: RotaryAxis) -> Spec:
    """Return the spec with a name for the fixed units; as a group of permutations it stays."""
    tensors = dict(spec.tensors)
    trees = _held(spec, axis)
    for (name, dim), tree in trees.items():
        entry = tensors[name]
        assert not isinstance(entry, Split)
        tensors[name] = (*entry[:dim], _name_axis(tree, axis), *entry[dim + 1 :])
    rows = [before for tree in trees.values() for before in _before(tree, axis.size)]
    common = [name for name in rows[0] if all(name in row for row in rows[1:])]
    declared = Declaration(size=axis.size, per=common[-1] if common else None, fixed=True)
    return replace(spec, tensors=tensors, groups={**spec.groups, axis.group: declared})


def _held(spec: Spec, axis: RotaryAxis) -> dict[AxisOfTensor, AxisExpr]:
    """Return the axis expressions that have as many fixed units in a row."""
    trees = {(name, dim): _tree(spec.tensors.get(name), dim) for name, dim in axis.places}
    return {
        place: tree
        for place, tree in trees.items()
        if tree is not None and any(leaf == Fixed(axis.size) for leaf in leaves(tree))
    }


def _tree(entry: Entry | None, dim: int) -> AxisExpr | None:
    return None if entry is None or isinstance(entry, Split) else entry[dim]


def _name_axis(tree: AxisExpr, axis: RotaryAxis) -> AxisExpr:
    def change(leaf: Named | Fixed) -> AxisExpr:
        return Named(axis.group) if leaf == Fixed(axis.size) else leaf

    return rewritten(tree, change)


def _before(tree: AxisExpr, size: int, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield, for each row of as many fixed units, the groups that it stands inside of."""
    if tree == Fixed(size):
        yield outer
    for part in parts_of(tree):
        yield from _before(part, size, outer)
        if isinstance(tree, Product):
            outer = (*outer, *axis_names([part]))

"""Where in a forward pass the units of each group can be seen at work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.language.model import (
    AxisExpr,
    Entry,
    Fixed,
    Named,
    Product,
    axes_of,
    parts_of,
)
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.points.paired import paired_values
from rebasin_cli.tracer.recording.record import Call, Record, Value


@dataclass(frozen=True)
class Point:
    """A tensor that an operator is given, whose axes hold the units of some groups.

    operator: its name as in `Call`. turn: how often it was called before in the same pass, out of
    `calls` times in all: calls of other operators come and go with dtypes and devices.
    operand: which of the operator's tensors. groups: whose units are looked at here; others may
    lie on the same axes. axes: what they are made of.
    """

    operator: str
    turn: int
    calls: int
    operand: int
    groups: tuple[str, ...]
    axes: Entry


Points = Mapping[str, tuple[Point, ...]]  # by what `point_kind` returns
MOMENTS = ("after", "before")
REACHES = ("all", "last")


def point_kind(moment: str, reach: str) -> str:
    """Return the key of a moment, after or before the activation, and of all places or the last."""
    return f"{moment} {reach}"


@dataclass(frozen=True)
class Chart:
    """What is known of a record: the axes of its values, the parent of each group inside one."""

    entry: Callable[[Value], Entry]
    parents: Mapping[str, str]

    def root(self, group: str) -> str:
        """Return the outermost parent of a group, or the group itself."""
        return self.root(self.parents[group]) if group in self.parents else group

    def visible(self, value: Value, *, crossed: bool) -> set[str]:
        """Return the groups whose units can be seen one by one in a value.

        crossed: also where another family lies on the axes beside them.
        """
        found: set[str] = set()
        for block in blocks_of(self.entry(value)):
            alone = len({self.root(group) for group in block}) == 1
            distinct = len(set(block)) == len(block)
            inside = all(self.parents.get(group, group) in block for group in block)
            if distinct and inside and (alone or crossed):
                found.update(block)
        return found

    def on(self, value: Value) -> set[str]:
        """Return the groups that lie on the axes of a value."""
        return {group for block in blocks_of(self.entry(value)) for group in block}


CallPlace = tuple[Call, tuple[int, ...]]  # a call, and which of its operands
CallPlaces = Mapping[str, Sequence[CallPlace]]  # by group, from the last to the first
Look = Callable[[Call], Mapping[str, tuple[int, ...]]]


def find_points(
    record: Record, calls: Sequence[Call], chart: Chart
) -> dict[str, tuple[Point, ...]]:
    """Return where to look at the units of every group that can be seen.

    After the activation: what operators are given that use the group up, so that none of their
    results has it. Before: what nonlinearities are given; a group that has none: as after. A
    residual stream has many such places, of which the last is its end.
    calls: those on which the outputs depend. Only the first of several recorded passes counts.
    """
    first = record.calls[: record.ends[0]] if record.ends else record.calls
    usable, end = paired_values(record), len(first)
    written = {value.root for call in first for value in call.written}
    once = [call for call in reversed(calls) if call.index < end]

    def looked(look: Look) -> dict[str, list[CallPlace]]:
        return _looked(once, look, written)

    after = {
        **looked(lambda call: _used_up(call, usable, chart, crossed=True)),
        **looked(lambda call: _used_up(call, usable, chart, crossed=False)),
        **looked(lambda call: _read(call, usable, chart)),
    }
    active = {
        **looked(lambda call: _activation_operands(call, usable, chart) if _is_gate(call) else {}),
        **looked(lambda call: {} if _is_gate(call) else _activation_operands(call, usable, chart)),
    }
    before = {group: active.get(group, places) for group, places in after.items()}
    found: dict[str, tuple[Point, ...]] = {}
    for moment, places in zip(MOMENTS, (after, before), strict=True):
        found[point_kind(moment, "all")] = _gathered(places, first, chart)
        ends = {group: every[:1] for group, every in places.items()}
        found[point_kind(moment, "last")] = _gathered(ends, first, chart)
    return found


def blocks_of(entry: Entry) -> list[tuple[str, ...]]:
    """Return the groups that meet in each block that a tensor is cut into."""
    found: list[tuple[str, ...]] = []
    for axes in axes_of(entry):
        rows: list[tuple[str, ...]] = [()]
        for axis in axes:
            rows = [row + names for row in rows for names in _along(axis)]
        found += rows
    return list(dict.fromkeys(row for row in found if row))


def _along(axis: AxisExpr) -> list[tuple[str, ...]]:
    if isinstance(axis, Named):
        return [(axis.name,)]
    if isinstance(axis, Fixed):
        return [()]
    if not isinstance(axis, Product):
        return [names for part in parts_of(axis) for names in _along(part)]
    rows: list[tuple[str, ...]] = [()]
    for factor in axis.factors:
        rows = [row + names for row in rows for names in _along(factor)]
    return rows


def _looked(
    backwards: Iterable[Call], look: Look, written: Container[Value]
) -> dict[str, list[CallPlace]]:
    """Return the places of each group; what several calls are given is looked at once."""
    found: defaultdict[str, list[CallPlace]] = defaultdict(list)
    seen: set[tuple[str, Value, int]] = set()
    for call in backwards:
        for group, operands in look(call).items():
            values = [call.operands[operand] for operand in operands]
            memory = {(group, v.root, v.offset) for v in values if v.root not in written}
            if len(memory) < len(values) or not memory <= seen:
                found[group].append((call, operands))
            seen |= memory
    return dict(found)


def _used_up(
    call: Call, usable: frozenset[Value], chart: Chart, *, crossed: bool
) -> dict[str, tuple[int, ...]]:
    """Return the groups that some operands of a call have, and none of its results.

    What a slice leaves out is not used up by it.
    """
    if facts(call.name).slices:
        return {}
    made = [value for value in (*call.results, *call.written) if value is not None]
    left = set[str]().union(*map(chart.on, made))
    return _operands_with_groups(
        call, usable, lambda value: chart.visible(value, crossed=crossed) - left
    )


def _read(call: Call, usable: frozenset[Value], chart: Chart) -> dict[str, tuple[int, ...]]:
    """Return what `_used_up` does, but for the sums that norms are made of."""
    sums = facts(call.name).sums
    return {} if sums else _used_up(call, usable, chart, crossed=False)


def _is_gate(call: Call) -> bool:
    return facts(call.name).gate


def _activation_operands(
    call: Call, usable: frozenset[Value], chart: Chart
) -> dict[str, tuple[int, ...]]:
    if not facts(call.name).activation:
        return {}
    return _operands_with_groups(call, usable, lambda value: chart.visible(value, crossed=False))


def _operands_with_groups(
    call: Call, usable: frozenset[Value], groups: Callable[[Value], set[str]]
) -> dict[str, tuple[int, ...]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for position, value in enumerate(call.operands):
        if value in usable and value not in call.operands[:position]:
            for group in groups(value):
                found[group].append(position)
    return {group: tuple(positions) for group, positions in found.items()}


def _gathered(places: CallPlaces, record: Sequence[Call], chart: Chart) -> tuple[Point, ...]:
    """Return one point for each operand that some groups are looked at in, in order of time."""
    turns, totals = _turns(record)
    served: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for group, every in places.items():
        for call, operands in every:
            for operand in operands:
                served[call.index, operand].append(group)
    return tuple(
        Point(
            operator=record[index].name,
            turn=turns[index],
            calls=totals[record[index].name],
            operand=operand,
            groups=tuple(sorted(groups)),
            axes=chart.entry(record[index].operands[operand]),
        )
        for (index, operand), groups in sorted(served.items())
    )


def _turns(record: Sequence[Call]) -> tuple[list[int], Counter[str]]:
    """Return how often the operator of each call was called before, and in all."""
    seen: Counter[str] = Counter()
    turns = []
    for call in record:
        turns.append(seen[call.name])
        seen[call.name] += 1
    return turns, seen

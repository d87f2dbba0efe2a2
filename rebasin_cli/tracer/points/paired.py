"""Which values of a run stand for the same inputs, place by place, in every model of its kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call, Record, Value


@dataclass
class _Known:
    """A set of values with some property; a value is in it if its storage is, too."""

    values: set[Value] = field(default_factory=set)

    def __contains__(self, value: Value) -> bool:
        return value in self.values or value.root in self.values

    def any(self, values: Iterable[Value]) -> bool:
        return any(value in self for value in values)

    def add(self, call: Call) -> None:
        self.values.update(value for value in call.results if value is not None)
        self.values.update(value.root for value in call.written)


def paired_values(record: Record) -> frozenset[Value]:
    """Return the floating values that depend on the inputs and have their places from them.

    Left out are tokens sent to experts and the like: which of them stand where is a choice that
    two models make differently.
    """
    fed, weighed, routed = _Known(), _Known(), _Known()
    found: set[Value] = set()
    for value in (value for call in record.calls for value in call.operands):
        fed.values.update({value} if value.source == "input" else ())
        weighed.values.update({value} if value.source.startswith(("parameter", "buffer")) else ())
    for call in record.calls:
        for known in (fed, weighed):
            if known.any(call.operands):
                known.add(call)
        if _routes(call, fed, weighed, routed):
            routed.add(call)
        found.update(
            value
            for value in (*call.operands, *call.results)
            if value is not None
            and value.dtype.is_floating_point
            and value in fed
            and value not in routed
        )
    return frozenset(value for value in found if value not in routed)


def _routes(call: Call, fed: _Known, weighed: _Known, routed: _Known) -> bool:
    """Return whether numbers that a model computed decide where its results stand."""
    known = facts(call.name)
    if known.scatters:
        return call.operands[0] in routed
    if routed.any(call.operands):
        return True
    if torch.Tag.pointwise in call.op.tags:
        return False
    chosen = [v for v in call.operands if not v.dtype.is_floating_point]
    computed = [v for v in call.operands if v in fed and v in weighed]
    return (known.sorts and bool(computed)) or any(value in computed for value in chosen)

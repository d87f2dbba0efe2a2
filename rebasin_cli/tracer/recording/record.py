"""What a model does, as a list of operator calls on numbered values; no tensor is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.tensors.trees import leaves_of
from rebasin_cli.tracer.operators import facts


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that was seen during the run.

    root: the value whose storage it shares, itself if it is not a view.
    source: "parameter NAME", "buffer NAME", "input" or "constant"; empty for a result.
    data: the numbers of a constant, where they are known. strides, offset: where its elements lie
    in its storage, when it was first seen.
    """

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: str = ""
    data: Tensor | None = field(default=None, repr=False)
    base: Value | None = field(default=None, repr=False)
    strides: tuple[int, ...] = ()
    offset: int = 0

    @property
    def root(self) -> Value:
        return self if self.base is None else self.base.root


@dataclass(frozen=True, eq=False)
class Call:
    """One operator call; tensors among its arguments and results are `Value`s.

    name: the operator without overload, namespace kept unless it is aten (`addmm`).
    written: the values that the operator writes into.
    """

    index: int
    name: str
    op: Any = field(repr=False)
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Value | None, ...]
    written: tuple[Value, ...] = ()

    def arg(self, name: str) -> Any:
        """Return an argument by the name it has in the operator's schema, or its default."""
        for position, argument in enumerate(self.op._schema.arguments):
            if argument.name == name:
                if position < len(self.args):
                    return self.args[position]
                return self.kwargs.get(name, argument.default_value)
        raise KeyError(name)

    def has(self, name: str) -> bool:
        """Return whether the operator has an argument of this name."""
        return any(argument.name == name for argument in self.op._schema.arguments)

    @cached_property  # asked for many times by each of several passes
    def operands(self) -> tuple[Value, ...]:
        """The tensors among the arguments, lists of them opened."""
        return tuple(values_in((self.args, self.kwargs)))

    @property
    def result(self) -> Value:
        """The first result, of an operator that always has one."""
        value = self.results[0]
        assert value is not None
        return value

    @property
    def made(self) -> tuple[Value, ...]:
        """The results that are there."""
        return tuple(value for value in self.results if value is not None)


@dataclass(frozen=True)
class Record:
    """A run of a model: its calls in order, its parameters and buffers, its outputs.

    tensors: state-dict name -> value; tied names share one value.
    outputs: by name as the model returned them, or by position. chosen: those that a user of the
    model looks at, not what it returns for a later call or for inspection.
    ends: of several passes one after the other, how many calls there were at the end of each.
    lists: the names of the lists of modules, with a dot at the end, inner ones first.
    decided: lines of the code that ask for numbers of the run, which may decide what runs.
    """

    calls: tuple[Call, ...]
    tensors: Mapping[str, Value]
    outputs: Mapping[str, Value]
    chosen: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    lists: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()


def values_in(tree: object) -> list[Value]:
    """Return the values in nested tuples, lists and mappings, in order."""
    return leaves_of(tree, Value)


MASKS = frozenset({torch.bool, torch.uint8})


def live(record: Record, outputs: Sequence[Value]) -> list[Call]:
    """Return the calls on which some outputs depend, in order, or on which the program depends.

    A write to any part of a storage counts if any part of it is read later; a view only if the
    view itself is read or written.
    """
    checks = _bounds(record)
    wanted, storages = set(outputs), {output.root for output in outputs}
    kept = []
    for call in reversed(record.calls):
        dynamic = torch.Tag.dynamic_output_shape in call.op.tags
        steers = (dynamic or facts(call.name).steers) and checks.isdisjoint(call.operands)
        writes = not storages.isdisjoint(value.root for value in call.written)
        used = writes or not wanted.isdisjoint(call.results)
        read = call.operands if used or not dynamic else _counted(call)
        if steers or used:
            wanted.update(read)
            storages.update(operand.root for operand in read)
        if used or (steers and read == call.operands):
            kept.append(call)
    return kept[::-1]


def _counted(call: Call) -> tuple[Value, ...]:
    """Return the operands that the size of a call's result depends on, where only that is used.

    Of an index by masks these are the masks alone: a mask chooses as many elements in any order of
    its axes.
    """
    if call.name != "index":
        return call.operands
    chosen = tuple(values_in(call.args[1]))
    return chosen if all(value.dtype in MASKS for value in chosen) else call.operands


def _bounds(record: Record) -> set[Value]:
    """Return the extremes of integer tensors: programs read them to check that indices fit."""
    extremes = (call for call in record.calls if facts(call.name).extreme)
    integers = (call for call in extremes if not call.operands[0].dtype.is_floating_point)
    return {value for call in integers for value in call.results if value is not None}

"""A pass over a record: every axis of every value gets a term, and operators tie terms together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor

from rebasin_cli.tensors.numbers import is_floating
from rebasin_cli.tracer.axes.axis_terms import (
    ONE,
    Atom,
    AxisTerm,
    Dependent,
    SumTerm,
    multiply,
    paths,
)
from rebasin_cli.tracer.axes.bindings import ALTERNATING, Bindings
from rebasin_cli.tracer.axes.known_atoms import Birth, Reason
from rebasin_cli.tracer.recording.record import Call, Record, Value

AxisTerms = tuple[AxisTerm, ...]
PASSES = 8  # two are enough for every model seen


@dataclass(frozen=True)
class LookUp:
    """An index that looked into its domain: a position on all its axes stands for a unit.

    index: which one it was, equal for equal views of one tensor. beside: the other axes of what
    it looked into.
    """

    axes: AxisTerms
    domain: AxisTerm
    index: object
    beside: AxisTerms


@dataclass
class Analysis:
    """The state of one pass.

    axes: value -> one term a dimension. domains: integer value -> the term whose units its
    numbers name (the indices of a top-k over experts). mixed: (kept, mixed) axes of every
    operation that mixes along some axes for each index of the others. identities: equal for
    index tensors that are equal views of one.
    reads: axes of parameters over which an operator sums: by them the parameter reads units, by
    its others it writes them. grouped: groups of channels, and the axis of a weight that they are
    the outer factor of. originals: copy of a parameter, or of some rows of one -> the parameter.
    """

    record: Record
    movable: frozenset[str]  # names of buffers that move like parameters
    terms: Bindings = field(default_factory=Bindings)
    axes: dict[Value, AxisTerms] = field(default_factory=dict)
    domains: dict[Value, AxisTerm] = field(default_factory=dict)
    mixed: list[tuple[AxisTerms, AxisTerms]] = field(default_factory=list)
    look_ups: list[LookUp] = field(default_factory=list)
    identities: dict[Value, object] = field(default_factory=dict)
    reads: list[tuple[Value, AxisTerm]] = field(default_factory=list)
    grouped: list[tuple[AxisTerm, AxisTerm]] = field(default_factory=list)
    originals: dict[Value, Value] = field(default_factory=dict)
    overwritten: frozenset[Value] = frozenset()
    used: frozenset[Value] = frozenset()  # what some call reads or the model returns
    unknown: set[str] = field(default_factory=set)  # operators without a rule

    def of(self, value: Value) -> AxisTerms:
        """Return the terms of a value's axes."""
        if self.constant(value):
            return self._constant_axes(value)
        if value not in self.axes:
            self.axes[value] = self._born(value)
        return self.axes[value]

    def constant(self, value: Value) -> bool:
        """Return whether a value depends on no parameter and no input."""
        return value.root.source == "constant" and value.root not in self.overwritten

    def fresh(self, shape: Iterable[int]) -> AxisTerms:
        """Return free axes of the given sizes."""
        return tuple(self.terms.atom(size) for size in shape)

    def frozen(self, shape: Iterable[int], text: str, *, soft: bool = False) -> AxisTerms:
        """Return new frozen axes of the given sizes."""
        return tuple(self.terms.held(size, Reason(text, soft)) for size in shape)

    def freeze(self, axes: Iterable[AxisTerm], text: str, *, soft: bool = False) -> None:
        """Freeze axes."""
        for term in axes:
            self.terms.freeze(term, Reason(text, soft))

    def mix(self, axes: AxisTerms, mixed: Iterable[int]) -> None:
        """Say that an operation mixes along some dimensions for each index of the others."""
        chosen = {dim % len(axes) for dim in mixed}
        # Summed over the axis that a term depends on, its cases meet: they have to be one.
        for term in axes:
            if isinstance(term, Dependent) and any(axes[dim] is term.index for dim in chosen):
                self.terms.collapse(term)
        kept = tuple(term for dim, term in enumerate(axes) if dim not in chosen)
        self.mixed.append((kept, tuple(axes[dim] for dim in sorted(chosen))))

    def meet(self, shared: AxisTerms, free: AxisTerms) -> None:
        """Say that a product of two tensors has some axes in common, and others of one of them.

        Neither what is summed over nor a batch can have its order from an axis that only one of
        the two has: the other would have it from another unit.
        """
        self.mixed.append((shared, free))

    def read(self, value: Value, term: AxisTerm) -> None:
        """Note that an operator sums over an axis of a parameter, or of a copy of one."""
        found = self.original(value)
        if found.source.startswith("parameter"):
            self.reads.append((found, term))

    def original(self, value: Value) -> Value:
        """Return the parameter that a value is a copy of, else the whole that it is a view of."""
        return self.originals.get(value.root, value.root)

    def domain(self, value: object) -> AxisTerm | None:
        """Return what the numbers of an index tensor name, or None."""
        return self.domains.get(value) if isinstance(value, Value) else None

    def identity(self, value: Value) -> object:
        """Return something that is equal for index tensors which name the same units in order."""
        return self.identities.get(value, value)

    def segmented(self, birth: Birth, cuts: Sequence[int], size: int) -> tuple[Atom, AxisTerms]:
        """Return an index axis that is made of segments from the start, and the segments."""
        bounds = (0, *cuts, size)
        pieces = self.fresh(end - start for start, end in pairwise(bounds))
        index = Atom(size)
        self.terms.born(index, birth)
        for start, piece in zip(bounds, pieces, strict=False):
            self.terms.born_at(piece, birth, start)
        self.terms.unify(index, SumTerm(pieces))
        return index, pieces

    def _born(self, value: Value) -> AxisTerms:
        kind, _, name = value.source.partition(" ")
        if kind == "parameter" or name in self.movable:
            return self._parameter(value, name)
        made = self.frozen(value.shape, value.source or "constant")
        if kind != "buffer" or not is_floating(value.dtype):
            return made
        # Moved along an axis where all of it is equal, a table stays the same; and what was begun
        # so and is no table (statistics, a codebook's counts) has followed the units since. Masks
        # of whole numbers, which no spec names unless asked to, would not follow.
        return tuple(
            self.terms.atom(term.size) if same and isinstance(term, Atom) else term
            for term, same in zip(made, uniform_axes(value.data, len(made)), strict=True)
        )

    def _parameter(self, value: Value, name: str) -> AxisTerms:
        shape = value.shape
        cut = [dim for dim in range(len(shape)) if self.terms.cuts.get((name, dim))]
        if len(shape) < 2 or not cut:
            made = self.fresh(shape)
            for dim, term in enumerate(made):
                self.terms.born(term, (name, dim))
            return made
        axis = cut[0]
        index, pieces = self.segmented(
            (name, axis), sorted(self.terms.cuts[name, axis]), shape[axis]
        )
        axes: list[AxisTerm] = []
        for dim, size in enumerate(shape):
            cases = tuple(self.terms.atom(size) for _ in pieces)
            axes.append(
                index if dim == axis else ONE if size == 1 else Dependent(index, pieces, cases)
            )
        return tuple(axes)

    def _constant_axes(self, value: Value) -> AxisTerms:
        """Return free axes where a constant is uniform, at each use new ones, frozen elsewhere.

        The same atoms at each use would tie all that meets them: an LSTM's state of zeros, one
        tensor for all layers and directions, left one group of four. Two axes of an identity
        matrix, also of a flat one, are one free axis twice.
        """
        axes = self.axes.setdefault(value, self.frozen(value.shape, "constant"))
        uniform = uniform_axes(value.data, len(axes))
        made = [
            self.terms.atom(size) if same else term
            for term, size, same in zip(axes, value.shape, uniform, strict=True)
        ]
        bound = [dim for dim, same in enumerate(uniform) if not same]
        side = _identity_side(value.data, bound)
        if side is not None:
            unit = self.terms.atom(side)
            made[bound[0]] = unit if len(bound) == 2 else multiply([unit, unit])
            made[bound[-1]] = made[bound[0]]
        return tuple(made)

    def emit(self, value: Value, axes: Sequence[AxisTerm]) -> None:
        """Give a value its axes; a value that has some already (written in place) unifies both."""
        whole = tuple(self._independent(term, axes) for term in axes)
        if value in self.axes:
            self.terms.unify_all(self.axes[value], whole)
        else:
            self.axes[value] = whole

    def _independent(self, term: AxisTerm, axes: Sequence[AxisTerm]) -> AxisTerm:
        """Return a term, collapsed if it depends on an axis that is not there exactly once."""
        if isinstance(term, Dependent) and sum(other is term.index for other in axes) != 1:
            return self.terms.collapse(term)
        return term


def overwritten(record: Record) -> frozenset[Value]:
    """Return the constants into which something is written that is not constant."""
    found: set[Value] = set()
    for call in record.calls:
        roots = [value.root for value in call.operands]
        if not all(root.source == "constant" and root not in found for root in roots):
            found.update(value.root for value in call.written)
    return frozenset(found)


def uniform_axes(data: Tensor | None, count: int) -> list[bool]:
    """Return for each of some axes whether all slices along it are equal, as far as is known."""
    if data is None or data.is_meta or data.numel() == 0:
        return [False] * count
    return [bool((data == data.narrow(dim, 0, 1)).all()) for dim in range(data.dim())]


def _identity_side(data: Tensor | None, dims: Sequence[int]) -> int | None:
    """Return the side of the matrix along some axes, if it is a multiple of the identity or so.

    That is one number on its diagonal, and one beside it. dims: the only axes along which a tensor
    varies; a single one has the rows of the matrix one after the other.
    """
    if data is None or len(dims) not in (1, 2):
        return None
    side = data.shape[dims[0]] if len(dims) == 2 else isqrt(data.shape[dims[0]])
    matrix = data[tuple(slice(None) if dim in dims else 0 for dim in range(data.dim()))]
    if side < 2 or matrix.numel() != side**2:
        return None
    diagonal = torch.eye(side, dtype=torch.bool, device=data.device).reshape(matrix.shape)
    flat = matrix[diagonal], matrix[~diagonal]
    return side if all(bool((part == part[0]).all()) for part in flat) else None


OperatorRule = Callable[[Analysis, Call], Sequence[AxisTerms | None]]


def analyse(
    record: Record,
    calls: Sequence[Call],
    outputs: Sequence[Value],
    rule: OperatorRule,
    movable: frozenset[str],
) -> Analysis:
    """Return the pass over the record after which nothing new is learnt.

    A pass that cuts an axis which an earlier call made whole is repeated with that knowledge:
    then the parts of a fused projection do not have to share what their other axes mean.
    """
    written = overwritten(record)
    used = frozenset(v for call in record.calls for v in call.operands)
    used |= frozenset(record.outputs.values())
    analysis = Analysis(record, movable, overwritten=written, used=used)
    for _ in range(PASSES):
        known = {birth: set(cuts) for birth, cuts in analysis.terms.cuts.items()}
        analysis = Analysis(record, movable, overwritten=written, used=used)
        analysis.terms.cuts.update({birth: set(cuts) for birth, cuts in known.items()})
        _run(analysis, calls, rule)
        for output in outputs:
            analysis.freeze(analysis.of(output), "output")
            domain = analysis.domain(output)
            if domain is not None:
                analysis.freeze([domain], "output")
        if analysis.terms.cuts == known:
            break
    return analysis


def _part_groups(analysis: Analysis) -> None:
    """Cut groups of channels that stand twice on one axis into single ones.

    A residual stream beside a shuffle makes the groups that channels come from and those that
    they go to one: of two, neither gives an order to what is inside, and all would have the same.
    """
    terms = analysis.terms
    for term, axis in analysis.grouped:
        group = terms.resolve(term)
        twice = (row.count(group) > 1 for row in paths(terms.resolve(axis)))
        if isinstance(group, Atom) and group.size <= ALTERNATING and any(twice):
            terms.note(group, range(1, group.size))


def _run(analysis: Analysis, calls: Sequence[Call], rule: OperatorRule) -> None:
    for call in calls:
        results = [value for value in call.results if value is not None]
        touched = [*results, *call.written] or call.operands
        if all(analysis.constant(value) for value in touched):
            continue
        made = rule(analysis, call)
        for value, axes in zip(call.results, made, strict=False):
            if value is not None and axes is not None:
                analysis.emit(value, axes)
    _part_groups(analysis)

"""From the terms of an analysis to a spec: which groups there are, and why the rest is fixed.

Every atom of a parameter that is not frozen is a group: one permutation that may be chosen at
will, for each unit of its parent if it has one. That each such choice keeps the function is what
the rules claim; it is proved afterwards by running the model, and groups that fail are fixed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from rebasin_cli.spec.language.model import (
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Spec,
    Split,
    concatenation,
    entry_names,
    interleaving,
    product,
)
from rebasin_cli.tensors import RUNNING_STATISTICS
from rebasin_cli.tensors.numbers import is_floating
from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms
from rebasin_cli.tracer.axes.axis_terms import (
    Atom,
    AxisTerm,
    Dependent,
    InterleavedTerm,
    ProductTerm,
    SumTerm,
    atoms,
    extent,
)
from rebasin_cli.tracer.classes.findings import ClassFindings, find_classes
from rebasin_cli.tracer.derivation.naming import AtomOccurrence, atom_occurrences, name_groups
from rebasin_cli.tracer.derivation.parents import find_parents
from rebasin_cli.tracer.derivation.unused import hold_unused
from rebasin_cli.tracer.points.points import Chart, Points, find_points
from rebasin_cli.tracer.recording.record import Call, Record, Value

UNSEEN = "weights that were not exercised read or write it"


@dataclass(frozen=True)
class FixedAxis:
    """An axis, or part of one, that nothing permutes. soft: a limit of the tracer."""

    tensor: str
    axis: int
    size: int
    reason: str
    soft: bool


@dataclass(frozen=True)
class DerivedSpec:
    """What an analysis says of a model's parameters.

    spec: one entry for each tensor, no templates (`compress` finds those). fixed: what stays, with
    reasons.
    unused: parameters that no output depends on. outputs: the axes of what the model returns.
    points: where the units of the groups can be seen at work. classes: what may be done to these
    units besides.
    """

    spec: Spec
    fixed: tuple[FixedAxis, ...]
    unused: tuple[str, ...]
    outputs: Mapping[str, Entry]
    points: Points
    classes: ClassFindings


def derive(
    analysis: Analysis, calls: Sequence[Call], outputs: Mapping[str, Value], name: str
) -> DerivedSpec:
    """Return the spec of an analysed record; freezes what no call exercised."""
    record = analysis.record
    # Freezing comes first, since it is asked for by everything else: what is free has a name,
    # and only free atoms and the parents of these are groups.
    tensors = {n: value for n, value in record.tensors.items() if _may_move(value, analysis)}
    unused = hold_unused(analysis, tensors, calls, outputs.values())
    axes = {n: _axes_of(analysis, value) for n, value in tensors.items()}
    free = _free(analysis, axes.values())
    lines = _ancestors(find_parents(analysis, list(axes.values())), free)
    read = _atoms_read(analysis, record)
    found = atom_occurrences(axes, read)
    # Frozen atoms that something moves inside of: groups too, declared as fixed, because a child
    # has to name its parent (heads with ALiBi slopes stay, the dims inside each do not).
    held = [p for p in dict.fromkeys(lines.values()) if p not in free]
    named = name_groups([*free, *held], found, lines)
    entries = {n: _entry(terms, named) for n, terms in axes.items()}
    spec = Spec(
        tensors={**_mark_optional(entries, tensors), **_entries_of_fixed_buffers(record, tensors)},
        name=name,
        buffers=tuple(n for n, v in tensors.items() if v.source.startswith("buffer")),
        transposed=_transposed({atom: found[atom] for atom in named}),
        groups=_declared(axes.values(), named, lines, held),
    )

    @cache
    def entry(value: Value) -> Entry:
        return _entry(_axes_of(analysis, value), named)

    returned = {n: entry(value) for n, value in outputs.items()}
    chart = Chart(entry, {named[a]: named[p] for a, p in lines.items() if a in named})
    seen = find_points(record, calls, chart)
    unseen = dict.fromkeys((g for n in unused for g in entry_names(entries[n])), UNSEEN)
    classes = find_classes(analysis, calls, outputs.values(), named).without(unseen)
    return DerivedSpec(spec, tuple(_fixed(analysis, axes)), unused, returned, seen, classes)


def _may_move(value: Value, analysis: Analysis) -> bool:
    """Return whether units of a tensor may move: parameters, and buffers that move like them."""
    if value.source[7:] in analysis.movable:
        return prod(value.shape) > 1  # of whole numbers too: a mask that is said to move has to
    seen = analysis.axes.get(value, ())
    moves = value.source.startswith("parameter") or not all(map(analysis.terms.is_frozen, seen))
    return moves and _is_described(value)


def _is_described(value: Value) -> bool:
    """Return whether a spec says anything of a tensor: numbers, of more than one unit.

    Integers (position ids, indices, counters) do not move unless they are named as movable.
    """
    numbers = is_floating(value.dtype)
    return prod(value.shape) > 1 and numbers


def _entries_of_fixed_buffers(record: Record, moving: Mapping[str, Value]) -> dict[str, Entry]:
    """Return entries of the buffers that stay: grids, masks.

    Without one, a file that is matched by the spec alone holds a tensor of unknown units. Files of
    other releases may lack them.
    """
    stay = {n: v for n, v in record.tensors.items() if _is_described(v) and n not in moving}
    return {f"{name}?": tuple(map(Fixed, value.shape)) for name, value in stay.items()}


def _axes_of(analysis: Analysis, value: Value) -> AxisTerms:
    """Return the axes of a parameter; one that depends on another only if its cases differ."""
    axes = [analysis.terms.resolve(term) for term in analysis.of(value)]
    if _same_everywhere(axes):
        axes = [term.cases[0] if isinstance(term, Dependent) else term for term in axes]
    return tuple(axes)


def _same_everywhere(axes: Iterable[AxisTerm]) -> bool:
    # After the last pass most of what was cut is one again (self attention reads one stream):
    # the plain form says the same. All axes or none: parts of a split list every axis.
    return all(len(set(term.cases)) == 1 for term in axes if isinstance(term, Dependent))


def _free(analysis: Analysis, rows: Iterable[AxisTerms]) -> list[Atom]:
    """Return the atoms that may move, in order of first use: the order that names depend on."""
    every = dict.fromkeys(atom for axes in rows for term in axes for atom in atoms(term))
    return [atom for atom in every if analysis.terms.reason(atom) is None]


def _ancestors(parents_: Mapping[Atom, Atom], free: Sequence[Atom]) -> dict[Atom, Atom]:
    """Return the parents of free atoms, and the parents of those, as far up as there are any."""
    lines: dict[Atom, Atom] = {}
    pending = list(free)
    for child in pending:
        if child in parents_ and child not in lines:
            lines[child] = parents_[child]
            pending.append(parents_[child])
    return lines


def _atoms_read(analysis: Analysis, record: Record) -> dict[str, frozenset[Atom]]:
    """Return for each tensor the atoms it sums over: those it reads, while it writes the others.

    By value, not by name: tied tensors are one value, which may be read through either name.
    """
    by_value: defaultdict[Value, set[Atom]] = defaultdict(set)
    for value, term in analysis.reads:
        by_value[value].update(atoms(analysis.terms.resolve(term)))
    return {name: frozenset(by_value.get(value, ())) for name, value in record.tensors.items()}


def _entry(axes: AxisTerms, named: Mapping[Atom, str]) -> Entry:
    """Return what a spec says of a tensor; axes that differ by segment of another make a split.

    A list of axes can only say one thing of each; a split says it for each segment of rows.
    """
    dependent = next((term for term in axes if isinstance(term, Dependent)), None)
    if dependent is None:
        return tuple(_expression(term, named) for term in axes)
    axis = next(k for k, term in enumerate(axes) if _is_index(term, dependent))
    rows = []
    for case, segment in enumerate(dependent.segments):
        row = [term.cases[case] if isinstance(term, Dependent) else term for term in axes]
        row[axis] = segment
        rows.append(tuple(_expression(term, named) for term in row))
    return Split(axis, tuple(rows))


def _is_index(term: AxisTerm, dependent: Dependent) -> bool:
    return isinstance(term, SumTerm) and extent(term) == sum(map(extent, dependent.segments))


def _expression(term: AxisTerm, named: Mapping[Atom, str]) -> AxisExpr:
    """Return a term in the language of specs; neighbouring fixed factors and segments join.

    3! * 4! is 12!, and 3! + 4! is 7!: how a fixed axis came to be is no matter to what moves.
    """
    if isinstance(term, Atom):
        return Named(named[term]) if term in named else Fixed(term.size)
    if all(atom not in named for atom in atoms(term)):
        return Fixed(extent(term))
    if isinstance(term, ProductTerm):
        return product(_join_fixed([_expression(f, named) for f in term.factors], prod))
    if isinstance(term, InterleavedTerm):
        return interleaving([_expression(row, named) for row in term.rows])
    assert isinstance(term, SumTerm)
    return concatenation(_join_fixed([_expression(s, named) for s in term.segments], sum))


def _join_fixed(parts: Sequence[AxisExpr], size: Callable[[Iterable[int]], int]) -> list[AxisExpr]:
    joined: list[AxisExpr] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Fixed) and isinstance(last, Fixed):
            joined[-1] = Fixed(size((last.size or 1, part.size or 1)))
        else:
            joined.append(part)
    return joined


def _mark_optional(entries: Mapping[str, Entry], tensors: Mapping[str, Value]) -> dict[str, Entry]:
    """Return the entries; those of tensors that files may leave out are optional.

    Of tied tensors all but one, and buffers other than running statistics.
    """
    seen: set[Value] = set()
    result = {}
    for name, entry in entries.items():
        value = tensors[name]
        loose = value.source.startswith("buffer") and not name.endswith(RUNNING_STATISTICS)
        result[f"{name}?" if loose or value in seen else name] = entry
        seen.add(value)
    return result


def _transposed(found: Mapping[Atom, Sequence[AtomOccurrence]]) -> tuple[str, ...]:
    """Return the tensors stored as (in, out): they sum over the first axis and not the second.

    Embeddings, transposed convolutions, GPT-2's Conv1D. By position alone such an axis would be
    on the wrong side, and `bind` would refuse its group as only written or only read.
    """
    by_tensor: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    for place in (place for places in found.values() for place in places if place.rank > 1):
        by_tensor[place.tensor][place.axis] = place.read
    return tuple(name for name, sides in by_tensor.items() if _is_transposed(sides))


def _is_transposed(sides: Mapping[int, bool]) -> bool:
    """sides: axis -> whether the tensor sums over it. Axes before the last two are batches."""
    first, second = sorted(sides)[-2:] if len(sides) > 2 else (0, 1)
    # Where no group is on an axis nothing is known of it: one side that is as usual is enough.
    usual = sides.get(first) is False or sides.get(second) is True
    return not usual and (sides.get(first) is True or sides.get(second) is False)


def _declared(
    rows: Iterable[AxisTerms],
    named: Mapping[Atom, str],
    lines: Mapping[Atom, Atom],
    held: Sequence[Atom],
) -> dict[str, Declaration]:
    """Return what must be said of groups: parents, and sizes that no whole axis shows.

    From a * b = 12 alone neither size follows.
    """
    whole = {term for axes in rows for term in axes}
    declared = {}
    for atom, name in named.items():
        per = named[lines[atom]] if atom in lines else None
        size = None if atom in whole else atom.size
        if per is not None or size is not None or atom in held:
            declared[name] = Declaration(size=size, per=per, fixed=atom in held)
    return declared


def _fixed(analysis: Analysis, axes: Mapping[str, AxisTerms]) -> Iterable[FixedAxis]:
    """Yield the fixed parts of axes, each atom once an axis, with the reason that it stays for."""
    for name, row in axes.items():
        for axis, term in enumerate(row):
            for atom in dict.fromkeys(atoms(term)):
                reason = analysis.terms.reason(atom)
                if reason is not None:
                    yield FixedAxis(name, axis, atom.size, reason.text, reason.soft)

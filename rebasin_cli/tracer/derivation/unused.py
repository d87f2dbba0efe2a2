"""Which units a run makes use of: what it does not use it cannot say anything about.

Nothing ties the atoms of a parameter that no call reads, so it would look perfectly free: poolers,
auxiliary heads, experts that no token reached. In another run they may well be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from functools import cache

from rebasin_cli.tracer.axes.analysis import Analysis
from rebasin_cli.tracer.axes.axis_terms import Atom, AxisTerm, Dependent, atoms
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.idle_members import idle_members
from rebasin_cli.tracer.recording.record import Call, Value

UNUSED = "not exercised: nothing that the outputs depend on reads it"


def hold_unused(
    analysis: Analysis,
    tensors: Mapping[str, Value],
    calls: Iterable[Call],
    outputs: Iterable[Value],
) -> tuple[str, ...]:
    """Freeze what no call uses: whole parameters, and units that every slice leaves out.

    Returns the names of the parameters that no call reads.
    """
    calls = list(calls)
    used = {operand.root for call in calls for operand in call.operands}
    unused = tuple(name for name, value in tensors.items() if value not in used)
    _join_members(analysis, tensors, used)
    exercised = _exercised(analysis, calls, outputs)
    for value in tensors.values():
        for term in analysis.of(value):
            _join_cases(analysis, term, exercised)
    for value in tensors.values():
        analysis.freeze(_atoms(analysis, value) - exercised, UNUSED)
    return unused


def _join_members(analysis: Analysis, tensors: Mapping[str, Value], used: Container[Value]) -> None:
    """Let members of a list that did not run move as those that did, along units from outside them.

    Layers of a chain, or heads of several stages, read each its own: what such a member reads that
    did not run cannot be told by the others.
    """

    @cache
    def reach(member: str) -> set[Atom]:
        return _reach(analysis, tensors, member)

    for name, twins in idle_members(analysis.record, used).items():
        said = {_outside(analysis, tensors[twin.name], reach(twin.member)) for twin in twins}
        if len(said) > 1:
            continue
        value, like = tensors[name], tensors[twins[0].name]
        for mine, other in zip(analysis.of(value), said.pop(), strict=True):
            if other is not None:
                analysis.terms.unify(mine, other)
        analysis.reads += [(value, term) for read, term in analysis.reads if read is like]


def _outside(analysis: Analysis, value: Value, reach: set[Atom]) -> tuple[AxisTerm | None, ...]:
    """Return the axes of a tensor, None for those of which no unit is reached, or none moves."""

    def moves(axis: AxisTerm) -> bool:
        return not (reach.isdisjoint(atoms(axis)) or analysis.terms.is_frozen(axis))

    axes = map(analysis.terms.resolve, analysis.of(value))
    return tuple(axis if moves(axis) else None for axis in axes)


def _reach(analysis: Analysis, tensors: Mapping[str, Value], member: str) -> set[Atom]:
    """Return the atoms of a member that other members share, and those on one axis with them."""
    inside = [name for name in tensors if f"{name}.".startswith(member)]
    found = set[Atom]().union(*(_atoms(analysis, tensors[n]) for n in tensors.keys() - inside))
    axes = [set(atoms(analysis.terms.resolve(t))) for n in inside for t in analysis.of(tensors[n])]
    while True:
        more = found.union(*(axis for axis in axes if not axis.isdisjoint(found)))
        if more == found:
            return found
        found = more


def _join_cases(analysis: Analysis, term: AxisTerm, exercised: set[Atom]) -> None:
    """Let the cases that nothing reads mean what the others mean: their rows move along.

    Rows of a table of positions that this input was too short for have the same columns as those
    that were read.
    """
    if not isinstance(term, Dependent):
        return
    idle = [case for case in term.cases if not _any(analysis, case, exercised)]
    busy = [case for case in term.cases if _any(analysis, case, exercised)]
    for case in idle:
        analysis.terms.unify(case, (busy or idle)[0])
    if busy:
        exercised.update(atoms(analysis.terms.resolve(busy[0])))


def _any(analysis: Analysis, term: AxisTerm, exercised: set[Atom]) -> bool:
    return not exercised.isdisjoint(atoms(analysis.terms.resolve(term)))


def _exercised(analysis: Analysis, calls: Iterable[Call], outputs: Iterable[Value]) -> set[Atom]:
    """Return the atoms that some call sums over, looks into or otherwise uses up, or outputs have.

    Units that are computed and then left out by a slice are not exercised.

    An atom is used up where it is on more axes of an operand than of any result: summed over,
    looked into, or multiplied with itself. As long as it is passed on it may yet be dropped.
    """
    found = {atom for value in outputs for atom in _atoms(analysis, value)}
    for call in calls:
        if not facts(call.name).slices:
            results = [value for value in call.results if value is not None]
            left = _most_axes(analysis, results)
            given = _most_axes(analysis, call.operands)
            found |= {atom for atom, count in given.items() if count > left[atom]}
    return found


def _most_axes(analysis: Analysis, values: Iterable[Value]) -> Counter[Atom]:
    """Return on how many axes of one value each atom occurs, at most."""
    most: Counter[Atom] = Counter()
    for value in values:
        if not analysis.constant(value):
            axes = (set(atoms(analysis.terms.resolve(term))) for term in analysis.of(value))
            most |= Counter(atom for found in axes for atom in found)
    return most


def _atoms(analysis: Analysis, value: Value) -> set[Atom]:
    return set(_most_axes(analysis, [value]))

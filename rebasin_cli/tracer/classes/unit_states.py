"""How every value of a run depends on the units of each group, as far as rotations are concerned.

A permutation commutes with whatever treats each unit by itself; a rotation x -> Q x only with what
is linear in the units and the same for each. So one pass over the calls tells which groups allow
one (SliceGPT, Ashkboos et al. 2024, has it for one class of transformers): a value holds units
as they are, multiplied by a gain that weights that read it can take over, or squared on the way to
a length, which no rotation changes. Whatever else an operator does to units forbids it, and is the
reason that is told. What is claimed here is proved afterwards by running the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from rebasin_cli.tracer.axes.analysis import Analysis
from rebasin_cli.tracer.axes.axis_terms import Atom, AxisTerm, atoms, extent
from rebasin_cli.tracer.recording.record import Call, Value

NO_WEIGHTS: frozenset[str] = frozenset()


class UnitRole(Enum):
    """UNITS: linear in the units. VECTOR: a parameter with one number for each unit, and no other.

    GAINED: units times a gain, and perhaps plus a bias, nothing else. SQUARED: squares of units.
    ALIKE: one number, repeated for each unit.
    """

    UNITS = "units"
    VECTOR = "vector"
    GAINED = "gained"
    SQUARED = "squared"
    ALIKE = "alike"


@dataclass(frozen=True)
class UnitState:
    """How a value depends on the units of one group.

    weights: the parameters that it is a sum of, each by its own units; none where inputs take
    part. tensor: of a vector its name, of what is gained the gain. offset: what the code adds to
    that. bias: what it adds to the product. writers: the parameters that wrote the units, and
    nothing else did, so that a gain on what they write may be theirs as well.
    """

    role: UnitRole = UnitRole.UNITS
    weights: frozenset[str] = NO_WEIGHTS
    tensor: str = ""
    offset: int = 0
    bias: str = ""
    writers: frozenset[str] = NO_WEIGHTS


class Forbidden(Exception):
    """An operator does to units what no rotation commutes with; the text says what."""


@dataclass
class GainUse:
    """A gain over some units: the bias with it, and the weights that read what it scales."""

    atom: Atom
    offset: int
    bias: str = ""
    readers: dict[str, None] = field(default_factory=dict)


@dataclass
class UnitStates:
    """The state of one pass.

    forbidden: atom -> why its units cannot be rotated. centred: atoms whose mean is taken, or to
    all units of which one number is added: a rotation must keep the vector of ones. bare: atom ->
    weights that read its units with no gain. added: atom -> the vectors that are added to it.
    scales: gain -> an atom, and the weights that write what it scales.
    """

    analysis: Analysis
    movable: frozenset[Atom]
    states: dict[tuple[Value, Atom], UnitState] = field(default_factory=dict)
    forbidden: dict[Atom, str] = field(default_factory=dict)
    centred: set[Atom] = field(default_factory=set)
    gains: dict[str, GainUse] = field(default_factory=dict)
    bare: defaultdict[Atom, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    added: defaultdict[Atom, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    scales: dict[str, tuple[Atom, frozenset[str]]] = field(default_factory=dict)
    _axes: dict[Value, tuple[AxisTerm, ...]] = field(default_factory=dict)
    _computed: set[Value] = field(default_factory=set)
    _weights: set[Value] = field(default_factory=set)

    def axes(self, value: Value) -> tuple[AxisTerm, ...]:
        """Return the resolved axes of a value; of a constant, none that a group could be on."""
        if value not in self._axes:
            known = () if self.analysis.constant(value) else self.analysis.of(value)
            self._axes[value] = tuple(self.analysis.terms.resolve(term) for term in known)
        return self._axes[value]

    def dims(self, value: Value, atom: Atom) -> tuple[int, ...]:
        """Return the dimensions of a value that the units of an atom are on."""
        return tuple(k for k, term in enumerate(self.axes(value)) if atom in set(atoms(term)))

    def holds(self, value: object, atom: Atom) -> bool:
        return isinstance(value, Value) and bool(self.dims(value, atom))

    def alone(self, value: Value, atom: Atom) -> bool:
        """Return whether the units are the one axis of a value that is longer than 1."""
        return [term for term in self.axes(value) if extent(term) != 1] == [atom]

    def of(self, value: Value, atom: Atom) -> UnitState:
        """Return the state of a value that holds units of an atom."""
        known = self.states.get((value, atom))
        if known is not None:
            return known
        kind, _, name = value.source.partition(" ")
        if kind != "parameter":
            return UnitState()
        weights = frozenset({name})
        lone = self.alone(value, atom)
        return UnitState(UnitRole.VECTOR, weights, name) if lone else UnitState(weights=weights)

    def stored(self, value: Value) -> bool:
        """Return whether a value depends on parameters and constants alone, and no input."""
        return self.analysis.constant(value) or self.weighs(value) or value in self._computed

    def weighs(self, value: Value) -> bool:
        """Return whether a value is a parameter, or made of parameters and no input."""
        return value.root.source.startswith("parameter") or value in self._weights

    def read(self, state: UnitState, atom: Atom, weights: frozenset[str]) -> None:
        """Note that weights sum over the units of a value, be these as they are or gained."""
        names = dict.fromkeys(sorted(weights))
        if state.role is not UnitRole.GAINED:
            self.bare[atom].update(names)
            return
        use = self.gains.setdefault(state.tensor, GainUse(atom, state.offset, state.bias))
        if (use.atom, use.offset, use.bias) != (atom, state.offset, state.bias):
            raise Forbidden(f"{state.tensor} scales units in two ways")
        use.readers.update(names)

    def run(self, calls: Sequence[Call], rule: UnitRule) -> None:
        """Pass over the calls; a rule says what the results are, for each atom by itself."""
        for call in calls:
            if all(map(self.stored, call.operands)):
                some = self._weights if any(map(self.weighs, call.operands)) else self._computed
                some.update(v for v in call.results if v is not None)
            if call.name == "expand" and call.results[0] is not None:
                self._repeat(call.args[0], call.results[0])
            for atom in self._involved(call):
                try:
                    self._emit(call, atom, rule(self, call, atom))
                except Forbidden as why:
                    self.forbidden[atom] = str(why)

    def _repeat(self, value: Value, result: Value) -> None:
        """Note of which atoms the units came by repeating one number."""
        for atom in (a for term in self.axes(result) for a in atoms(term)):
            if not self.holds(value, atom):
                self.states[result, atom] = UnitState(UnitRole.ALIKE)

    def _involved(self, call: Call) -> Iterable[Atom]:
        held = (a for v in call.operands for term in self.axes(v) for a in atoms(term))
        return dict.fromkeys(a for a in held if a in self.movable and a not in self.forbidden)

    def _emit(self, call: Call, atom: Atom, state: UnitState) -> None:
        for value in (v for v in call.results if v is not None):
            if self.holds(value, atom):
                self.states[value, atom] = state
        # What is written into a part of a value is not seen by those who look at the whole.
        partly = any(v is not v.root and self.holds(v.root, atom) for v in call.written)
        if partly and state.role is not UnitRole.UNITS:
            raise Forbidden(f"{call.name} writes scaled units into a part of others")


UnitRule = Callable[[UnitStates, Call, Atom], UnitState]

"""How the sign of every value follows from signs that units of the parameters are given.

Where two activations are multiplied unit by unit, as in SwiGLU's up * silu(gate), a unit of one may
be multiplied by -1 if whatever reads the product is so as well; an activation on the way forbids
it. So each axis of a parameter that has some units gets an unknown bit, and the sign of a value is
a sum of such bits modulo 2: products add them, sums and weights that read want them to be equal,
what is no odd function wants them to be 0. What solves all of these equations changes no output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rebasin_cli.tracer.axes.axis_terms import Atom, atoms
from rebasin_cli.tracer.classes.unit_states import UnitStates
from rebasin_cli.tracer.recording.record import Call, Value

AxisPart = tuple[str, int, int]  # a tensor, an axis, and which time that the axis has the units
SignForm = frozenset[AxisPart]  # the bits whose sum modulo 2 is the sign of a value's units
SignRow = tuple[SignForm, ...]  # of a value, in the order in which its axes have the units
PLUS: SignForm = frozenset()


@dataclass
class SignForms:
    """The forms of one atom in one pass. plus: those that have to be 0.

    gated: whether two activations that have the units are multiplied; what has signs for another
    reason, as a stream whose gains stay, is not looked for.
    """

    states: UnitStates
    atom: Atom
    plus: list[SignForm] = field(default_factory=list)
    gated: bool = False
    known: dict[Value, SignRow] = field(default_factory=dict)

    def dims(self, value: Value) -> tuple[int, ...]:
        """Return the dimension of each time that a value has the units."""
        axes = self.states.axes(value)
        return tuple(k for k, term in enumerate(axes) for a in atoms(term) if a is self.atom)

    def of(self, value: Value) -> SignRow:
        """Return the forms of a value; none where it does not have the units."""
        if value not in self.known:
            dims, name = self.dims(value), value.source.partition(" ")[2]
            found: SignRow = (PLUS,) * len(dims)
            if value.source.startswith("parameter") and not value.dtype.is_complex:
                found = tuple(frozenset({part}) for part in _parts(name, dims))
            self.known[value] = found
        return self.known[value]

    def held(self, values: Iterable[object]) -> list[Value]:
        """Return the values that have the units."""
        return [v for v in values if isinstance(v, Value) and self.dims(v)]

    def rows(self, values: Iterable[object]) -> list[SignRow]:
        """Return the forms of values that have the units; nothing if not equally often."""
        found = [self.of(value) for value in self.held(values)]
        return found if len(set(map(len, found))) == 1 else []

    def same(self, one: Iterable[SignForm], other: Iterable[SignForm]) -> None:
        """Say that signs are equal, one by one."""
        self.plus.extend(mine ^ theirs for mine, theirs in zip(one, other, strict=True))

    def all_plus(self, values: Iterable[Value]) -> None:
        """Say that units of values keep their sign."""
        self.plus.extend(form for value in values for form in self.of(value))

    def give(self, value: Value, found: Sequence[SignForm]) -> None:
        """Say what forms a result has; all are one where these are not as many as it needs."""
        count, row = len(self.dims(value)), tuple(found)
        if len(row) != count:
            self.plus.extend(row[0] ^ form for form in row[1:])
            row = (row or (PLUS,))[:1] * count
        self.same(self.known.setdefault(value, row), row)

    def give_all(self, call: Call, found: Sequence[SignForm]) -> None:
        """Say it of all results of a call."""
        for value in call.made:
            self.give(value, found)

    def solution(self) -> SignForm:
        """Return tensors whose units may change sign together; one of them writes, one reads.

        Empty if there are none; the first choice if there are several, as where either factor of a
        product may change its sign.
        """
        if not self.gated:
            return PLUS
        read = self._read()
        written = self._of_matrices() - read
        both = (found for found in self._solutions() if found & read and found & written)
        return next(both, PLUS)

    def _read(self) -> SignForm:
        """Return the parts over which a parameter is summed."""
        axes, resolve = self.states.axes, self.states.analysis.terms.resolve
        return frozenset(
            part
            for value, term in self.states.analysis.reads
            for form in self.known.get(value, ())
            for part in form
            if axes(value)[part[1]] == resolve(term)
        )

    def _of_matrices(self) -> frozenset[AxisPart]:
        """Return the parts of weights: a gain alone writes nothing, and no spec takes it so."""
        return frozenset(
            part
            for value, row in self.known.items()
            if value.source.startswith("parameter") and len(value.shape) > 1
            for form in row
            for part in form
        )

    def _solutions(self) -> Iterator[SignForm]:
        """Yield a basis of what solves all equations, by elimination over two elements."""
        rows: dict[AxisPart, SignForm] = {}
        for equation in self.plus:
            form = equation
            for part in equation & rows.keys():
                form ^= rows[part]
            if form:
                pivot = min(form)
                rows = {part: row ^ form if pivot in row else row for part, row in rows.items()}
                rows[pivot] = form
        unknown = {part for forms in self.known.values() for form in forms for part in form}
        for free in sorted(unknown - rows.keys()):
            yield frozenset({free, *(part for part, row in rows.items() if free in row)})


def _parts(name: str, dims: Sequence[int]) -> Iterator[AxisPart]:
    seen: defaultdict[int, int] = defaultdict(int)
    for dim in dims:
        yield name, dim, seen[dim]
        seen[dim] += 1


SignRule = Callable[[SignForms, Call], None]


def signed_parts(
    states: UnitStates, wanted: Iterable[Atom], calls: Iterable[Call], rule: SignRule
) -> dict[Atom, SignForm]:
    """Return which parts of parameters may have one sign for each unit of an atom, if any may."""
    involved: dict[Atom, dict[Call, None]] = {atom: {} for atom in wanted}
    for call in calls:
        for value in (*call.operands, *call.made):
            for atom in (a for term in states.axes(value) for a in atoms(term)):
                if atom in involved:
                    involved[atom][call] = None
    found = {}
    for atom, mine in involved.items():
        forms = SignForms(states, atom)
        for call in mine:
            rule(forms, call)
        found[atom] = forms.solution()
    return {atom: parts for atom, parts in found.items() if parts}

"""Sums of products over an axis: weights that read units, and products of two activations."""

from __future__ import annotations

from rebasin_cli.tracer.axes.axis_terms import Atom, atoms
from rebasin_cli.tracer.classes.rules.unit_checks import one_for_all, plain_units
from rebasin_cli.tracer.classes.unit_states import (
    NO_WEIGHTS,
    Forbidden,
    UnitRole,
    UnitRule,
    UnitState,
    UnitStates,
)
from rebasin_cli.tracer.recording.record import Call, Value
from rebasin_cli.tracer.rules import base_name

# name -> which arguments are multiplied and over which dimension of each, and what is added.
PRODUCTS: dict[str, tuple[int, int, int, int, int | None]] = {
    **dict.fromkeys(("mm", "mv"), (0, -1, 1, 0, None)),
    **dict.fromkeys(("dot", "vdot"), (0, 0, 1, 0, None)),
    "bmm": (0, 2, 1, 1, None),
    **dict.fromkeys(("addmm", "addmv"), (1, -1, 2, 0, 0)),
    "baddbmm": (1, 2, 2, 1, 0),
    "linear": (0, -1, 1, 1, 2),
}


def product(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """A sum of products over one dimension of each of two values, perhaps added to a third."""
    one, dim_one, two, dim_two, added = PRODUCTS[base_name(call)]
    pair = (call.args[one], dim_one), (call.args[two], dim_two)
    given = call.args[added] if added is not None and added < len(call.args) else None
    return _product(states, call, atom, pair, given)


def convolution(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    dim = 0 if call.arg("transposed") else 1
    pair = (call.args[0], 1), (call.args[1], dim)
    return _product(states, call, atom, pair, call.arg("bias"))


def _product(
    states: UnitStates,
    call: Call,
    atom: Atom,
    pair: tuple[tuple[Value, int], tuple[Value, int]],
    added: Value | None,
) -> UnitState:
    summed = [_on(states, value, dim, atom) for value, dim in pair]
    kept = [value for value, dim in pair if _elsewhere(states, value, dim, atom)]
    if summed[0] != summed[1] or len(kept) > 1:
        raise Forbidden(f"{call.name} joins its units one by one")
    if all(summed):
        _sum(states, pair[0][0], pair[1][0], atom)
    for value in kept if not all(summed) else ():
        plain_units(states, [value], atom, f"{call.name} of what it scales")
    if not any(states.holds(v, atom) for v in call.results if v is not None):
        return UnitState()
    if added is not None and not states.holds(added, atom):
        return one_for_all(states, atom, UnitState())
    given = [] if added is None else [added]
    plain_units(states, given, atom, "it is added")
    weights = NO_WEIGHTS.union(*(states.of(v, atom).weights for v in (*kept, *given)))
    stored = all(map(states.stored, call.operands))
    return UnitState(weights=weights) if stored else UnitState(writers=weights)


def _on(states: UnitStates, value: Value, dim: int, atom: Atom) -> bool:
    return atom in set(atoms(states.axes(value)[dim])) if states.axes(value) else False


def _elsewhere(states: UnitStates, value: Value, dim: int, atom: Atom) -> bool:
    return any(k != dim % len(value.shape) for k in states.dims(value, atom))


def _sum(states: UnitStates, one: Value, two: Value, atom: Atom) -> None:
    """Two values summed over units: a weight reads, or two activations are multiplied."""
    for value, other in ((one, two), (two, one)):
        state, read = states.of(value, atom), states.of(other, atom)
        if state.role is UnitRole.SQUARED:
            raise Forbidden("squares of its units are read")
        if state.role is UnitRole.GAINED and not (
            read.weights and read.role is not UnitRole.GAINED
        ):
            raise Forbidden(f"no weight takes over the gain {state.tensor}")
        if read.weights and not states.stored(value):
            states.read(state, atom, read.weights)


RULES: dict[str, UnitRule] = {**dict.fromkeys(PRODUCTS, product), "convolution": convolution}

"""Operators that only move units about: views, parts, copies, and averages over other axes."""

from __future__ import annotations

from rebasin_cli.tracer.axes.axis_terms import Atom, atoms
from rebasin_cli.tracer.classes.rules.unit_checks import (
    one_for_all,
    plain_units,
    same_state,
    without_inputs,
)
from rebasin_cli.tracer.classes.unit_states import (
    NO_WEIGHTS,
    Forbidden,
    UnitRole,
    UnitRule,
    UnitState,
    UnitStates,
)
from rebasin_cli.tracer.recording.record import Call


def moved(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Views, copies and parts: numbers are what they were.

    Rows of a weight that inputs choose, as those of experts, read as all of it does.
    """
    return same_state(states, [v for v in call.operands if states.holds(v, atom)], atom, call)


def linear(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """What is linear in each unit, and the same for all: averages over places, interpolation."""
    (value, *others) = [v for v in call.operands if states.holds(v, atom)]
    if others:
        raise Forbidden(f"{call.name} joins its units one by one")
    state = states.of(value, atom)
    if state.role is UnitRole.GAINED and not state.bias:
        return without_inputs(states, call, state)
    plain_units(states, [value], atom, f"{call.name} of what it scales")
    return UnitState(weights=state.weights if states.stored(value) else NO_WEIGHTS)


def lookup(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """An embedding: rows of a table; that the rows are units is another matter."""
    if atom not in set(atoms(states.axes(call.args[0])[1])):
        raise Forbidden("its units are looked up by number")
    return UnitState()


def joined(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Units written among units."""
    held = [v for v in call.operands if states.holds(v, atom)]
    plain_units(states, held, atom, f"{call.name} of scaled units and others")
    return UnitState()


def padded(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    if not any(call.arg("pad")):
        return moved(states, call, atom)
    state = linear(states, call, atom)
    return one_for_all(states, atom, state) if call.arg("value") != 0 else state


RULES: dict[str, UnitRule] = {
    "embedding": lookup,
    **dict.fromkeys(("cat", "stack", "copy"), moved),
    **dict.fromkeys(
        ("index_add", "index_copy", "index_put", "_index_put_impl", "masked_scatter"), joined
    ),
    **dict.fromkeys(("scatter", "scatter_add", "slice_scatter", "select_scatter"), joined),
    "constant_pad_nd": padded,
}

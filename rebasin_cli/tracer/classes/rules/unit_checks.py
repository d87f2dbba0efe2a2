"""What rules have in common: units as they are, or what forbids to take them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebasin_cli.tracer.axes.axis_terms import Atom
from rebasin_cli.tracer.classes.unit_states import (
    NO_WEIGHTS,
    Forbidden,
    UnitRole,
    UnitState,
    UnitStates,
)
from rebasin_cli.tracer.recording.record import Call, Value


def same_state(states: UnitStates, values: Sequence[Value], atom: Atom, call: Call) -> UnitState:
    found = list(dict.fromkeys(states.of(value, atom) for value in values))
    if len(found) == 1:
        return found[0]
    plain_units(states, values, atom, f"{call.name} of scaled units and others")
    return UnitState()


def without_inputs(states: UnitStates, call: Call, state: UnitState) -> UnitState:
    """Return a state without weights where inputs choose what is taken, as of an embedding."""
    if all(map(states.stored, call.operands)):
        return state
    if state.role is UnitRole.VECTOR:
        return UnitState()
    return replace(state, weights=NO_WEIGHTS)


def plain_units(states: UnitStates, values: Sequence[Value], atom: Atom, text: str) -> None:
    """Raise Forbidden unless values hold units as they are."""
    for value in values:
        state = states.of(value, atom)
        if state.role is UnitRole.GAINED and state.writers and not (state.bias or state.offset):
            # A gain on what a branch adds (LayerScale): the branch's last weight can take it over.
            states.scales[state.tensor] = atom, state.writers
            continue
        if state.role is UnitRole.GAINED:
            raise Forbidden(f"no weight takes over the gain {state.tensor}: {text}")
        if state.role is UnitRole.SQUARED:
            raise Forbidden(text)
        if state.role is UnitRole.VECTOR:
            states.added[atom][state.tensor] = None
        if state.role is UnitRole.ALIKE:
            states.centred.add(atom)


def one_for_all(states: UnitStates, atom: Atom, state: UnitState) -> UnitState:
    """One number is added to all units: Q (x + 1) = Q x + 1 where Q keeps the vector of ones."""
    if state.role is not UnitRole.UNITS:
        raise Forbidden("a number is added to what its gain scales")
    states.centred.add(atom)
    return UnitState()

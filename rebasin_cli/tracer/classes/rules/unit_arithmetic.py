"""Operators that work number by number: sums, products, powers, zeros filled in."""

from __future__ import annotations

from dataclasses import replace

from rebasin_cli.tracer.axes.axis_terms import Atom
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
from rebasin_cli.tracer.recording.record import Call, Value
from rebasin_cli.tracer.rules import base_name


def sums(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Addition and subtraction."""
    held = [v for v in call.operands if states.holds(v, atom)]
    found = [states.of(value, atom) for value in held]
    if len(held) == 1:
        return _with_number(states, call, atom, found[0])
    gained = [state for state in found if state.role is UnitRole.GAINED]
    vectors = [state for state in found if state.role is UnitRole.VECTOR]
    plus = base_name(call) == "add" and call.arg("alpha") == 1
    if len(gained) == len(vectors) == 1 and plus and not gained[0].bias and not vectors[0].offset:
        return replace(gained[0], bias=vectors[0].tensor)
    plain_units(states, held, atom, "it scales what is added to other units")
    weights = NO_WEIGHTS.union(*(state.weights for state in found))
    if all(map(states.stored, held)):
        return UnitState(weights=weights)
    wrote = [s.writers or (s.weights if s in vectors else NO_WEIGHTS) for s in found]
    return UnitState(writers=NO_WEIGHTS.union(*wrote) if all(wrote) else NO_WEIGHTS)


def _with_number(states: UnitStates, call: Call, atom: Atom, state: UnitState) -> UnitState:
    """A number is added to all units, or what has no units."""
    numbers = [n for n in call.args[:2] if isinstance(n, int | float)]
    if numbers == [0]:
        return state
    if state.role is UnitRole.VECTOR and numbers == [1] and base_name(call) == "add":
        return replace(state, offset=state.offset + 1)
    return one_for_all(states, atom, state)


def products(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Multiplication, element by element, and division."""
    alike = UnitState(UnitRole.ALIKE)
    held = [v for v in call.args[:2] if states.holds(v, atom) and states.of(v, atom) != alike]
    if not held:
        return alike
    found = [states.of(value, atom) for value in held]
    if len(held) == 1:
        return _scaled(states, call, atom, held[0])
    division = base_name(call) != "mul"
    if held[0] is held[1] and found[0].role is UnitRole.UNITS and not division:
        return UnitState(UnitRole.SQUARED)
    roles = [state.role for state in found]
    if sorted(role.value for role in roles) != ["units", "vector"] or division:
        plain_units(states, held, atom, "it scales what is multiplied by other units")
        raise Forbidden(f"{call.name} of units with units, one by one")
    vector, units = (found[roles.index(role)] for role in (UnitRole.VECTOR, UnitRole.UNITS))
    return UnitState(
        UnitRole.GAINED, tensor=vector.tensor, offset=vector.offset, writers=units.writers
    )


def _scaled(states: UnitStates, call: Call, atom: Atom, value: Value) -> UnitState:
    """One factor for all units."""
    if value is not call.args[0] and base_name(call) != "mul":
        raise Forbidden("its units are divided by")
    state = states.of(value, atom)
    if state.role is UnitRole.GAINED and state.bias:
        raise Forbidden(f"no weight takes over the gain {state.tensor}: its product is scaled")
    if state.role is UnitRole.VECTOR:
        plain_units(states, [value], atom, "")
        return UnitState(weights=state.weights)
    return replace(without_inputs(states, call, state), writers=NO_WEIGHTS)


def power(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    if call.args[1] != 2 or not isinstance(call.args[0], Value):
        raise Forbidden("powers of its units")
    plain_units(states, [call.args[0]], atom, "its product is squared")
    return UnitState(UnitRole.SQUARED)


def filled(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Zeros in the place of some units' numbers, the same places for all units."""
    chosen, *values = [call.args[1], call.args[0], *call.args[2:]]
    if base_name(call) == "where":
        chosen, *values = call.args
    held = [v for v in values if states.holds(v, atom)]
    rest = [v for v in values if v not in held]
    if states.holds(chosen, atom) or not all(map(is_zero, rest)):
        raise Forbidden(f"{call.name} puts another number in the place of units")
    state = same_state(states, held, atom, call)
    if state.bias:  # another input may fill more places, where the norm then adds none
        raise Forbidden(f"no weight takes over the gain {state.tensor}: {call.name} of its product")
    return without_inputs(states, call, state)


def is_zero(value: object) -> bool:
    if isinstance(value, Value):
        return value.data is not None and not bool(value.data.any())
    return value == 0


RULES: dict[str, UnitRule] = {
    **dict.fromkeys(("add", "sub", "rsub"), sums),
    **dict.fromkeys(("mul", "div"), products),
    "pow": power,
    **dict.fromkeys(("where", "masked_fill"), filled),
}

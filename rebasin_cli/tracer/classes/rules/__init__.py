"""What each operator does to units, as far as it matters to rotations, in one table by name."""

from __future__ import annotations

from rebasin_cli.tracer.axes.axis_terms import Atom
from rebasin_cli.tracer.classes.rules import (
    unit_arithmetic,
    unit_moves,
    unit_norms,
    unit_products,
)
from rebasin_cli.tracer.classes.unit_states import Forbidden, UnitRule, UnitState, UnitStates
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call
from rebasin_cli.tracer.rules import base_name

RULES: dict[str, UnitRule] = {
    **unit_moves.RULES,
    **unit_products.RULES,
    **unit_arithmetic.RULES,
    **unit_norms.RULES,
}


def unit_state(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Return the state of the results of a call, where they hold units of an atom.

    Raises Forbidden where they are not what they would be for rotated units, rotated alike.
    """
    name = base_name(call)
    rule = RULES.get(name)
    if rule is None and (facts(name).moves or facts(name).linear):
        rule = unit_moves.moved if facts(name).moves else unit_moves.linear
    if rule is None:
        raise Forbidden(f"{name} looks at each of its units by itself")
    return rule(states, call, atom)

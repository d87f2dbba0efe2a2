"""Operators that sum over units: means, lengths, norms."""

from __future__ import annotations

from rebasin_cli.tracer.axes.axis_terms import Atom
from rebasin_cli.tracer.classes.rules.unit_checks import plain_units
from rebasin_cli.tracer.classes.rules.unit_moves import linear
from rebasin_cli.tracer.classes.unit_states import (
    Forbidden,
    UnitRole,
    UnitRule,
    UnitState,
    UnitStates,
)
from rebasin_cli.tracer.recording.record import Call, Value, values_in
from rebasin_cli.tracer.rules import base_name
from rebasin_cli.tracer.rules.arithmetic import reduced


def reduction(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Sums and means: over units, of squares a length, of units what a mean-keeping map keeps."""
    value: Value = call.args[0]
    state = states.of(value, atom)
    over = reduced(call) & set(states.dims(value, atom))
    if not over:
        free = state.role is UnitRole.GAINED and base_name(call) == "mean"
        return state if free or state.role is UnitRole.SQUARED else linear(states, call, atom)
    if state.role is not UnitRole.SQUARED:
        plain_units(states, [value], atom, "the mean of what it scales is taken")
        states.centred.add(atom)
    return UnitState()


def spread(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Variances and lengths: over units."""
    value: Value = call.args[0]
    if not reduced(call) & set(states.dims(value, atom)):
        raise Forbidden(f"{call.name} over other axes looks at each of its units by itself")
    if call.has("ord") and call.arg("ord") != 2:
        raise Forbidden("a length other than the Euclidean one")
    plain_units(states, [value], atom, "the spread of what it scales is taken")
    if not call.has("ord"):  # a variance, from which the mean was taken off
        states.centred.add(atom)
    return UnitState()


def norm(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """LayerNorm and RMSNorm where torch has them as one operator."""
    value: Value = call.args[0]
    if states.dims(value, atom) != (len(value.shape) - 1,) or states.axes(value)[-1] != atom:
        raise Forbidden("a norm over other axes, or over more than its units")
    if len(call.arg("normalized_shape")) != 1:
        raise Forbidden("a norm over more than its units")
    plain_units(states, [value], atom, "its product is normalised again")
    if base_name(call) == "native_layer_norm":
        states.centred.add(atom)
    gain = call.arg("weight")
    bias = call.arg("bias") if call.has("bias") else None
    if not isinstance(gain, Value):
        plain_units(states, values_in([bias]), atom, "it is added")
        return UnitState()
    gains, biases = (states.of(v, atom) if isinstance(v, Value) else None for v in (gain, bias))
    if gains is None or gains.role is not UnitRole.VECTOR:
        raise Forbidden("the gain of its norm is no parameter")
    return UnitState(
        UnitRole.GAINED,
        tensor=gains.tensor,
        offset=gains.offset,
        bias=biases.tensor if biases else "",
    )


RULES: dict[str, UnitRule] = {
    **dict.fromkeys(("sum", "mean"), reduction),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "linalg_vector_norm"), spread),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), norm),
}

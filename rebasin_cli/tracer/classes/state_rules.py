"""What each operator does to units, as far as it matters to rotations; see `unit_states`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Number

from rebasin_cli.tensors.trees import leaves_of
from rebasin_cli.tracer.axes.axis_terms import Atom, atoms
from rebasin_cli.tracer.classes.unit_states import (
    NO_WEIGHTS,
    Forbidden,
    Kind,
    UnitRule,
    UnitState,
    UnitStates,
)
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call, Value, values_in
from rebasin_cli.tracer.rules import base_name
from rebasin_cli.tracer.rules.arithmetic import reduced

# name -> which arguments are multiplied and over which dimension of each, and what is added.
PRODUCTS: dict[str, tuple[int, int, int, int, int | None]] = {
    **dict.fromkeys(("mm", "mv"), (0, -1, 1, 0, None)),
    **dict.fromkeys(("dot", "vdot"), (0, 0, 1, 0, None)),
    "bmm": (0, 2, 1, 1, None),
    **dict.fromkeys(("addmm", "addmv"), (1, -1, 2, 0, 0)),
    "baddbmm": (1, 2, 2, 1, 0),
    "linear": (0, -1, 1, 1, 2),
}
SUMMED = frozenset({"sum", "mean"})
SPREADS = frozenset({"var", "std", "var_mean", "std_mean"})


def unit_state(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Return the state of the results of a call, where they hold units of an atom.

    Raises Forbidden where they are not what they would be for rotated units, rotated alike.
    """
    name = base_name(call)
    rule = RULES.get(name)
    if rule is None and (facts(name).moves or facts(name).linear):
        rule = moved if facts(name).moves else linear
    if rule is None:
        raise Forbidden(f"{name} looks at each of its units by itself")
    return rule(states, call, atom)


def moved(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Views, copies and parts: numbers are what they were.

    Rows of a weight that inputs choose, as those of experts, read as all of it does.
    """
    return _same_state(states, [v for v in call.operands if states.holds(v, atom)], atom, call)


def _same_state(
    states: UnitStates, values: Sequence[Value], atom: Atom, call: Call
) -> UnitState:
    found = list(dict.fromkeys(states.of(value, atom) for value in values))
    if len(found) == 1:
        return found[0]
    _plain(states, values, atom, f"{call.name} of scaled units and others")
    return UnitState()


def _by_inputs(states: UnitStates, call: Call, state: UnitState) -> UnitState:
    """Return a state without weights where inputs choose what is taken, as of an embedding."""
    if all(map(states.stored, call.operands)):
        return state
    if state.kind is Kind.VECTOR:
        return UnitState()
    return replace(state, weights=NO_WEIGHTS)


def _plain(states: UnitStates, values: Sequence[Value], atom: Atom, text: str) -> None:
    """Raise Forbidden unless values hold units as they are."""
    for value in values:
        state = states.of(value, atom)
        if state.kind is Kind.GAINED and state.writers and not (state.bias or state.offset):
            # A gain on what a branch adds (LayerScale): the branch's last weight can take it over.
            states.scales[state.tensor] = atom, state.writers
            continue
        if state.kind is Kind.GAINED:
            raise Forbidden(f"no weight takes over the gain {state.tensor}: {text}")
        if state.kind is Kind.SQUARED:
            raise Forbidden(text)
        if state.kind is Kind.VECTOR:
            states.added[atom][state.tensor] = None


def linear(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """What is linear in each unit, and the same for all: averages over places, interpolation."""
    (value, *others) = [v for v in call.operands if states.holds(v, atom)]
    if others:
        raise Forbidden(f"{call.name} joins its units one by one")
    state = states.of(value, atom)
    if state.kind is Kind.GAINED and not state.bias:
        return _by_inputs(states, call, state)
    _plain(states, [value], atom, f"{call.name} of what it scales")
    return UnitState(weights=state.weights if states.stored(value) else NO_WEIGHTS)


def lookup(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """An embedding: rows of a table; that the rows are units is another matter."""
    if atom not in set(atoms(states.axes(call.args[0])[1])):
        raise Forbidden("its units are looked up by number")
    return UnitState()


def joined(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Units written among units."""
    held = [v for v in call.operands if states.holds(v, atom)]
    _plain(states, held, atom, f"{call.name} of scaled units and others")
    return UnitState()


def padded(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    if not any(call.arg("pad")):
        return moved(states, call, atom)
    if call.arg("value") != 0:
        raise Forbidden("padded with a number that is not zero")
    return linear(states, call, atom)


# -- sums of products ---------------------------------------------------------------------------


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
    (one, dim_one), (two, dim_two) = pair
    summed = [_on(states, value, dim, atom) for value, dim in pair]
    kept = [value for value, dim in pair if _elsewhere(states, value, dim, atom)]
    if summed[0] != summed[1] or len(kept) > 1:
        raise Forbidden(f"{call.name} joins its units one by one")
    if all(summed):
        _sum(states, one, two, atom)
    for value in kept if not all(summed) else ():
        _plain(states, [value], atom, f"{call.name} of what it scales")
    if not any(states.holds(v, atom) for v in call.results if v is not None):
        return UnitState()
    if added is not None and not states.holds(added, atom):
        return _one_for_all(states, atom, UnitState())
    given = [] if added is None else [added]
    _plain(states, given, atom, "it is added")
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
        if state.kind is Kind.SQUARED:
            raise Forbidden("squares of its units are read")
        if state.kind is Kind.GAINED and not (read.weights and read.kind is not Kind.GAINED):
            raise Forbidden(f"no weight takes over the gain {state.tensor}")
        if read.weights and not states.stored(value):
            states.read(state, atom, read.weights)


# -- numbers by numbers -------------------------------------------------------------------------


def sums(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Addition and subtraction."""
    held = [v for v in call.operands if states.holds(v, atom)]
    found = [states.of(value, atom) for value in held]
    if len(held) == 1:
        return _with_number(states, call, atom, found[0])
    gained = [state for state in found if state.kind is Kind.GAINED]
    vectors = [state for state in found if state.kind is Kind.VECTOR]
    plus = base_name(call) == "add" and call.arg("alpha") == 1
    if len(gained) == len(vectors) == 1 and plus and not gained[0].bias and not vectors[0].offset:
        return replace(gained[0], bias=vectors[0].tensor)
    _plain(states, held, atom, "it scales what is added to other units")
    weights = NO_WEIGHTS.union(*(state.weights for state in found))
    if all(map(states.stored, held)):
        return UnitState(weights=weights)
    wrote = [state.writers or (state.weights if state in vectors else None) for state in found]
    return UnitState(writers=NO_WEIGHTS.union(*(w for w in wrote if w)) if all(wrote) else NO_WEIGHTS)


def _with_number(states: UnitStates, call: Call, atom: Atom, state: UnitState) -> UnitState:
    """A number is added to all units, or what has no units."""
    numbers = [n for n in leaves_of(call.args[:2], Number)]
    if numbers == [0]:
        return state
    if state.kind is Kind.VECTOR and numbers == [1] and base_name(call) == "add":
        return replace(state, offset=state.offset + 1)
    return _one_for_all(states, atom, state)


def _one_for_all(states: UnitStates, atom: Atom, state: UnitState) -> UnitState:
    """One number is added to all units: Q (x + 1) = Q x + 1 where Q keeps the vector of ones."""
    if state.kind is not Kind.UNITS:
        raise Forbidden("a number is added to what its gain scales")
    states.centred.add(atom)
    return UnitState()


def products(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Multiplication, element by element, and division."""
    held = [v for v in call.args[:2] if states.holds(v, atom)]
    found = [states.of(value, atom) for value in held]
    if len(held) == 1:
        return _scaled(states, call, atom, held[0])
    division = base_name(call) != "mul"
    if held[0] is held[1] and found[0].kind is Kind.UNITS and not division:
        return UnitState(Kind.SQUARED)
    kinds = [state.kind for state in found]
    if sorted(k.value for k in kinds) != ["units", "vector"] or division:
        _plain(states, held, atom, "it scales what is multiplied by other units")
        raise Forbidden(f"{call.name} of units with units, one by one")
    vector, units = (found[kinds.index(kind)] for kind in (Kind.VECTOR, Kind.UNITS))
    return UnitState(
        Kind.GAINED, tensor=vector.tensor, offset=vector.offset, writers=units.writers
    )


def _scaled(states: UnitStates, call: Call, atom: Atom, value: Value) -> UnitState:
    """One factor for all units."""
    if value is not call.args[0] and base_name(call) != "mul":
        raise Forbidden("its units are divided by")
    state = states.of(value, atom)
    if state.kind is Kind.GAINED and state.bias:
        raise Forbidden(f"no weight takes over the gain {state.tensor}: its product is scaled")
    if state.kind is Kind.VECTOR:
        _plain(states, [value], atom, "")
        return UnitState(weights=state.weights)
    return replace(_by_inputs(states, call, state), writers=NO_WEIGHTS)


def power(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    if call.args[1] != 2 or not isinstance(call.args[0], Value):
        raise Forbidden("powers of its units")
    _plain(states, [call.args[0]], atom, "its product is squared")
    return UnitState(Kind.SQUARED)


def filled(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Zeros in the place of some units' numbers, the same places for all units."""
    chosen, *values = [call.args[1], call.args[0], *call.args[2:]]
    if base_name(call) == "where":
        chosen, *values = call.args
    held = [v for v in values if states.holds(v, atom)]
    rest = [v for v in values if v not in held]
    if states.holds(chosen, atom) or not all(map(_is_zero, rest)):
        raise Forbidden(f"{call.name} puts another number in the place of units")
    return _by_inputs(states, call, _same_state(states, held, atom, call))


def _is_zero(value: object) -> bool:
    if isinstance(value, Value):
        return value.data is not None and not bool(value.data.any())
    return value == 0


# -- sums over units, norms ---------------------------------------------------------------------


def reduction(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Sums and means: over units, of squares a length, of units what a mean-keeping map keeps."""
    value: Value = call.args[0]
    state = states.of(value, atom)
    over = reduced(call) & set(states.dims(value, atom))
    if not over:
        free = state.kind is Kind.GAINED and base_name(call) == "mean"
        return state if free or state.kind is Kind.SQUARED else linear(states, call, atom)
    if state.kind is not Kind.SQUARED:
        _plain(states, [value], atom, "the mean of what it scales is taken")
        states.centred.add(atom)
    return UnitState()


def spread(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """Variances and lengths: over units."""
    value: Value = call.args[0]
    if not reduced(call) & set(states.dims(value, atom)):
        raise Forbidden(f"{call.name} over other axes looks at each of its units by itself")
    if call.has("ord") and call.arg("ord") != 2:
        raise Forbidden("a length other than the Euclidean one")
    _plain(states, [value], atom, "the spread of what it scales is taken")
    if base_name(call) in SPREADS:
        states.centred.add(atom)
    return UnitState()


def norm(states: UnitStates, call: Call, atom: Atom) -> UnitState:
    """LayerNorm and RMSNorm where torch has them as one operator."""
    value: Value = call.args[0]
    if states.dims(value, atom) != (len(value.shape) - 1,) or states.axes(value)[-1] != atom:
        raise Forbidden("a norm over other axes, or over more than its units")
    if len(call.arg("normalized_shape")) != 1:
        raise Forbidden("a norm over more than its units")
    _plain(states, [value], atom, "its product is normalised again")
    if base_name(call) == "native_layer_norm":
        states.centred.add(atom)
    gain = call.arg("weight")
    bias = call.arg("bias") if call.has("bias") else None
    if not isinstance(gain, Value):
        _plain(states, values_in([bias]), atom, "it is added")
        return UnitState()
    gains, biases = (states.of(v, atom) if isinstance(v, Value) else None for v in (gain, bias))
    if gains is None or gains.kind is not Kind.VECTOR:
        raise Forbidden("the gain of its norm is no parameter")
    return UnitState(
        Kind.GAINED, tensor=gains.tensor, offset=gains.offset, bias=biases.tensor if biases else ""
    )


RULES: dict[str, UnitRule] = {
    **dict.fromkeys(PRODUCTS, product),
    "convolution": convolution,
    "embedding": lookup,
    **dict.fromkeys(("add", "sub", "rsub"), sums),
    **dict.fromkeys(("mul", "div"), products),
    "pow": power,
    **dict.fromkeys(("where", "masked_fill"), filled),
    **dict.fromkeys(SUMMED, reduction),
    **dict.fromkeys((*SPREADS, "linalg_vector_norm"), spread),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), norm),
    **dict.fromkeys(("cat", "stack", "copy"), moved),
    **dict.fromkeys(
        ("index_add", "index_copy", "index_put", "_index_put_impl", "masked_scatter"), joined
    ),
    **dict.fromkeys(("scatter", "scatter_add", "slice_scatter", "select_scatter"), joined),
    "constant_pad_nd": padded,
}

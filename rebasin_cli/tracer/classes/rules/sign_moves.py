"""What operators that only move units about do to their signs, and those that bend them."""

from __future__ import annotations

from collections.abc import Mapping

from rebasin_cli.tracer.axes.axis_terms import AxisTerm, SumTerm, atoms, extent
from rebasin_cli.tracer.classes.signs.sign_forms import SignForm, SignForms, SignRule
from rebasin_cli.tracer.recording.record import Call, Value
from rebasin_cli.tracer.rules.arithmetic import reduced


def kept(forms: SignForms, call: Call) -> None:
    """What bends units, or is not known."""
    forms.all_plus(forms.held(call.operands))
    even(forms, call)


def even(forms: SignForms, call: Call) -> None:
    """What comes out is the same for both signs, as of squares."""
    for value in call.made:
        forms.give(value, ())


def moved(forms: SignForms, call: Call) -> None:
    """Views, copies, joined values, odd functions: signs go where the units go."""
    found = [form for value in forms.held(call.operands) for form in forms.of(value)]
    for value in call.made:
        forms.give(value, found)


def power(forms: SignForms, call: Call) -> None:
    (even if call.args[1] == 2 else kept)(forms, call)


def summed(forms: SignForms, call: Call) -> None:
    """Sums and means over other axes; over units, these keep their sign."""
    value: Value = call.args[0]
    (kept if reduced(call) & set(forms.dims(value)) else moved)(forms, call)


def cut(forms: SignForms, call: Call) -> None:
    """Parts of an axis: of gates and what they are multiplied by, stored as one."""
    value: Value = call.args[0]
    dim = call.arg("dim") % len(value.shape)
    begins = _begins(forms, value, dim)
    if not begins or (call.has("step") and call.arg("step") != 1):
        moved(forms, call)
        return
    start = (call.arg("start") or 0) % value.shape[dim] if call.has("start") else 0
    for result in call.made:
        stop = start + result.shape[dim]
        forms.give(result, [form for at, form in begins.items() if start <= at < stop])
        start = stop


def _begins(forms: SignForms, value: Value, dim: int) -> Mapping[int, SignForm]:
    """Return where along an axis each run of the units begins; nothing if some are elsewhere."""
    term, found = forms.states.axes(value)[dim] if forms.held([value]) else None, forms.of(value)
    if set(forms.dims(value)) != {dim}:
        return {}
    segments: tuple[AxisTerm, ...] = term.segments if isinstance(term, SumTerm) else ()
    begins, at = dict[int, SignForm](), 0
    for segment in segments:
        for number in range(list(atoms(segment)).count(forms.atom)):
            begins[at + number] = found[len(begins)]
        at += extent(segment)
    return begins


RULES: dict[str, SignRule] = {
    **dict.fromkeys(("tanh", "sin", "asinh", "atan", "erf", "reciprocal"), moved),
    **dict.fromkeys(("abs", "cos"), even),
    "pow": power,
    **dict.fromkeys(("sum", "mean"), summed),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), cut),
    **dict.fromkeys(("slice", "narrow"), cut),
}

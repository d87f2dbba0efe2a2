"""What sums and products do to signs: the equations that signs of parameters have to solve."""

from __future__ import annotations

from rebasin_cli.tracer.classes.rules.sign_moves import kept
from rebasin_cli.tracer.classes.rules.unit_arithmetic import is_zero
from rebasin_cli.tracer.classes.rules.unit_products import PRODUCTS
from rebasin_cli.tracer.classes.signs.sign_forms import PLUS, SignForm, SignForms, SignRow, SignRule
from rebasin_cli.tracer.recording.record import Call, Value
from rebasin_cli.tracer.rules import base_name


def halves(forms: SignForms, call: Call) -> None:
    """A gated linear unit: the first half times the sigmoid of the second."""
    found = forms.of(call.args[0])
    middle = len(found) // 2
    forms.gated = True
    forms.plus.extend(found[middle:])
    forms.give_all(call, found[:middle])


def multiplied(forms: SignForms, call: Call) -> None:
    """Products and quotients, number by number: signs are multiplied, gains keep theirs."""
    held = forms.held(call.args[:2])
    forms.all_plus(v for v in held if forms.states.weighs(v) and forms.states.alone(v, forms.atom))
    forms.gated |= len({v for v in held if not forms.states.stored(v)}) > 1
    rows = forms.rows(held)
    if not rows:
        kept(forms, call)
        return
    found = list(rows[0])
    for row in rows[1:]:
        found = [one ^ other for one, other in zip(found, row, strict=True)]
    forms.give_all(call, found)


def added(forms: SignForms, call: Call) -> None:
    """Sums: all signs are one; where a number is added to all units, none."""
    rows = forms.rows(call.args[:2])
    if not rows or (len(rows) == 1 and 0 not in call.args[:2]):
        kept(forms, call)
    else:
        _one_for_all(forms, call, rows)


def _one_for_all(forms: SignForms, call: Call, rows: list[SignRow]) -> None:
    for row in rows[1:]:
        forms.same(rows[0], row)
    forms.give_all(call, rows[0])


def filled(forms: SignForms, call: Call) -> None:
    """Zeros in the place of some numbers have any sign."""
    chosen, *values = [call.args[1], call.args[0], *call.args[2:]]
    if base_name(call) == "where":
        chosen, *values = call.args
    forms.all_plus(forms.held([chosen]))
    held = forms.held(values)
    rows = forms.rows(held)
    if rows and all(map(is_zero, (value for value in values if value not in held))):
        _one_for_all(forms, call, rows)
    else:
        kept(forms, call)


def product(forms: SignForms, call: Call) -> None:
    """A sum of products over one dimension of each of two values, perhaps added to a third."""
    one, dim_one, two, dim_two, added_at = PRODUCTS[base_name(call)]
    bias = call.args[added_at] if added_at is not None and added_at < len(call.args) else None
    _product(forms, call, ((call.args[one], dim_one), (call.args[two], dim_two)), bias)


def convolution(forms: SignForms, call: Call) -> None:
    dim = 0 if call.arg("transposed") else 1
    _product(forms, call, ((call.args[0], 1), (call.args[1], dim)), call.arg("bias"))


def _product(
    forms: SignForms,
    call: Call,
    factors: tuple[tuple[Value, int], tuple[Value, int]],
    bias: Value | None,
) -> None:
    over, rest = zip(*(_at(forms, *factor) for factor in factors), strict=True)
    if len(over[0]) == len(over[1]):
        forms.same(over[0], over[1])
    else:
        forms.plus.extend((*over[0], *over[1]))
    forms.give_all(call, (*rest[0], *rest[1]))
    if bias is not None:
        for value in forms.held(call.made):
            forms.give(value, forms.of(bias) or (PLUS,))


def _at(forms: SignForms, value: Value, dim: int) -> tuple[list[SignForm], list[SignForm]]:
    """Return the forms on one dimension of a value, and those on its others."""
    placed = list(zip(forms.dims(value), forms.of(value), strict=True))
    at = dim % len(value.shape)
    return [form for k, form in placed if k == at], [form for k, form in placed if k != at]


RULES: dict[str, SignRule] = {
    "glu": halves,
    **dict.fromkeys(("mul", "div"), multiplied),
    **dict.fromkeys(("add", "sub", "rsub"), added),
    **dict.fromkeys(("where", "masked_fill"), filled),
    **dict.fromkeys(PRODUCTS, product),
    "convolution": convolution,
}

"""What each operator does to signs of units, in one table by name; of others, units keep theirs."""

from __future__ import annotations

from rebasin_cli.tracer.classes.rules import sign_moves, sign_products, unit_moves
from rebasin_cli.tracer.classes.signs.sign_forms import SignForms, SignRule
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call
from rebasin_cli.tracer.rules import base_name

RULES: dict[str, SignRule] = {**sign_moves.RULES, **sign_products.RULES}


def sign_forms(forms: SignForms, call: Call) -> None:
    """Say what forms the results of a call have, and which have to be equal or 0."""
    name = base_name(call)
    rule = RULES.get(name)
    if rule is None and (facts(name).moves or facts(name).linear or name in unit_moves.RULES):
        rule = sign_moves.moved
    (rule or sign_moves.kept)(forms, call)

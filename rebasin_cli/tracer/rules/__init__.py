"""What each operator does to the axes of its arguments and results, in one table by name.

A rule takes the analysis and a call and returns the axes of each result; on the way it unifies
axes that move together, freezes those whose order matters, and says along which axes the
operator mixes. Its twin is `tests/tracer/test_rules.py`, which permutes real operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import AxisTerm, extent
from rebasin_cli.tracer.operators import OPERATORS, facts
from rebasin_cli.tracer.recording.record import Call, Value, values_in
from rebasin_cli.tracer.rules import arithmetic, indexing, shapes, slices, spatial, strides
from rebasin_cli.tracer.rules.probing import probe_operator

CREATORS = (
    *("empty", "zeros", "ones", "full", "empty_strided", "empty_permuted", "scalar_tensor"),
    *(operator.name for operator in OPERATORS if operator.only_shaped),
)


def created(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Give a new tensor free axes: it is written into later, and that ties them."""
    return [analysis.fresh(value.shape) for value in call.results if value is not None]


RULES: dict[str, OperatorRule] = {
    **shapes.RULES,
    **slices.RULES,
    **strides.RULES,
    **arithmetic.RULES,
    **spatial.RULES,
    **indexing.RULES,
    **dict.fromkeys(CREATORS, created),
}


def apply_rule(analysis: Analysis, call: Call) -> Sequence[AxisTerms | None]:
    """Return the axes of a call's results, by the rule of its operator."""
    name = base_name(call)
    rule = RULES.get(name)
    if rule is None and torch.Tag.pointwise in call.op.tags:
        rule = arithmetic.pointwise
    made = _without_rule(analysis, call) if rule is None else rule(analysis, call)
    _pass_domains(analysis, call, name)
    _note_copy(analysis, call, name)
    return made


def _without_rule(analysis: Analysis, call: Call) -> Sequence[AxisTerms]:
    """Find out by running the operator, or freeze everything."""
    analysis.unknown.add(call.name)
    made = probe_operator(analysis, call)
    return indexing.freezing(analysis, call) if made is None else made


def base_name(call: Call) -> str:
    """Return an operator's name without the underscore of its in-place form."""
    name = call.name
    in_place = name.endswith("_") and not name.endswith("__")
    return name[:-1] if in_place and name not in RULES else name


def _note_copy(analysis: Analysis, call: Call, name: str) -> None:
    """Remember of which parameter a value is a copy, or some rows."""
    copies = facts(name).copies
    if not copies or not isinstance(call.args[0], Value) or call.results[0] is None:
        return
    original = analysis.original(call.args[0])
    if original.source.startswith("parameter"):
        analysis.originals[call.results[0]] = original


def _pass_domains(analysis: Analysis, call: Call, name: str) -> None:
    """Hand on what index tensors name, or freeze it where the numbers are computed with."""
    domains = {v: d for v in call.operands if (d := analysis.domain(v)) is not None}
    if not domains:
        return
    if facts(name).keeps_indices:
        _hand_on(analysis, call, list(domains.values()), len(domains) < len(set(call.operands)))
        return
    if facts(name).looks_up:
        _looked_up(analysis, call, domains)
        return
    analysis.freeze(domains.values(), f"its indices are numbers for {call.name}")


def _hand_on(analysis: Analysis, call: Call, domains: list[AxisTerm], partly: bool) -> None:
    first, *rest = domains
    for other in rest:
        if extent(other) == extent(first):
            analysis.terms.unify(first, other)
        else:
            analysis.freeze([first, other], "indices of two axes in one tensor")
    if partly:
        analysis.freeze(domains, "indices and other numbers in one tensor")
    rest_of_call = str(map_leaves((call.args, call.kwargs), Value, analysis.identity))
    for place, value in enumerate(call.results):
        if value is not None:
            analysis.domains[value] = first
            analysis.identities[value] = (call.name, rest_of_call, place)


def _looked_up(analysis: Analysis, call: Call, domains: dict[Value, AxisTerm]) -> None:
    """Pass on, or freeze, the domain of a tensor of indices that is itself looked into."""
    index = list(values_in(call.arg("indices" if call.has("indices") else "index")))
    held = {value: domain for value, domain in domains.items() if value not in index}
    first = held.pop(call.args[0], None)
    if first is not None and facts(call.name).takes:
        analysis.domains.update({v: first for v in call.results if v is not None})
    elif first is not None:
        analysis.freeze([first], "indices that are written into")
    analysis.freeze(held.values(), "indices that are written")

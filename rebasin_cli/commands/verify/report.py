"""Whether a model is another with its units reordered, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.report import (
    agreement_fields,
    agreement_text,
    distance_text,
    matched_fields,
    moved_text,
    named_spec,
)
from rebasin_cli.alignment.unit_tables import matched_details
from rebasin_cli.commands.verify.plan import Verified
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import file_fields
from rebasin_cli.wording import and_more, count, shorten

_SHOWN = 5  # tensors that differ, by name


def verdict(outcome: Verified) -> str:
    """Return whether one model is a permutation of another, as one sentence."""
    if outcome.function and outcome.function.same and not outcome.exact:
        return f"{outcome.b} computes what {outcome.a} does, but is not a permutation of it"
    if outcome.exact and outcome.matching.moved == 0:
        return f"{outcome.b} equals {outcome.a}"
    if outcome.exact:
        return (
            f"{outcome.b} is {outcome.a} with its units reordered: {moved_text(outcome.matching)}"
        )
    return (
        f"{outcome.b} is not a permutation of {outcome.a}: "
        f"{count(len(outcome.different), 'tensor')} differ under the best one found, "
        f"by up to {outcome.max_difference:.3g} of the tensor's largest value"
    )


def verified_text(outcome: Verified) -> str:
    """Return what the verdict is founded on."""
    lines = [
        f"  {distance_text(outcome.matching)} under spec {named_spec(outcome.spec, outcome.alike)}"
    ]
    different = [f"differs: {name}" for name in outcome.different]
    lines += [f"  {line}" for line in shorten(different, _SHOWN, and_more)]
    lines += [f"  {agreement_text(outcome.function)}"] if outcome.function else []
    return "\n".join(lines)


def _verified_fields(outcome: Verified) -> dict[str, Any]:
    return {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        "permutation": outcome.exact,
        "max_difference": outcome.max_difference,
        "different": list(outcome.different),
        **agreement_fields(outcome.function),
        **matched_fields(outcome.matching),
        **file_fields(outcome.permutation),
    }


PRESENTERS: Presenters = {
    Verified: Presenter(
        fields=_verified_fields,
        text=verdict,
        summary=verified_text,
        details=lambda outcome: matched_details(outcome.matching),
        code=lambda outcome: int(not outcome.holds),
    )
}

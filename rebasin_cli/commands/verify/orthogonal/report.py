"""Whether a model is a rotated copy of another, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.report import agreement_fields, agreement_text
from rebasin_cli.alignment.unit_report import before_and_after
from rebasin_cli.commands.verify.orthogonal.plan import VerifiedRotation
from rebasin_cli.folding.fold_report import tied_lines
from rebasin_cli.folding.rotation_report import maps_text
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import file_fields
from rebasin_cli.wording import and_more, count, shorten

_SHOWN = 5  # tensors that differ the most


def rotation_verdict(outcome: VerifiedRotation) -> str:
    """Return whether one model is a rotated copy of another, as one sentence."""
    a, b = outcome.a, outcome.b
    if outcome.rotated:
        return (
            f"{b} is {a} with its units rotated, to the rounding of {outcome.dtype}: tensors "
            f"differ by up to {outcome.max_difference:.2g} of their length"
        )
    if outcome.holds:
        return f"{b} computes what {a} does, but is not a rotated copy of it"
    return (
        f"{b} is not a rotated copy of {a}: {count(len(outcome.different), 'tensor')} differ under "
        f"the best maps found, by up to {outcome.max_difference:.3g} of the tensor's length, and "
        f"the rounding of {outcome.dtype} is {outcome.rounding:.2g}"
    )


def rotation_text(outcome: VerifiedRotation) -> str:
    """Return what the verdict is founded on."""
    lines = [f"  {maps_text(outcome)}, spec {outcome.spec}"]
    worst = sorted(outcome.different.items(), key=lambda item: -item[1])
    different = [f"differs: {name}, by {share:.2g}" for name, share in worst]
    lines += [f"  {line}" for line in shorten(different, _SHOWN, and_more)]
    lines += tied_lines(outcome.tied)
    lines += _function_lines(outcome.function)
    return "\n".join(lines)


def _function_lines(function: FunctionDifference | None) -> list[str]:
    """Return how far outputs are apart; of rounded weights they are, and it is no verdict."""
    if function is None:
        return []
    if function.same:
        return [f"  {agreement_text(function)}"]
    inputs = count(function.inputs, "random input")
    apart = f"outputs differ by {function.difference:.2g} of their scale"
    return [f"  {apart} ({inputs}, {function.dtype})"]


def _fields(outcome: VerifiedRotation) -> dict[str, Any]:
    return {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "symmetry": "orthogonal",
        "spec": outcome.spec,
        "maps": outcome.classes,
        "rotated": outcome.rotated,
        "max_difference": outcome.max_difference,
        "rounding": outcome.rounding,
        "dtype": outcome.dtype,
        "different": list(outcome.different),
        "cosine": before_and_after(outcome.cosine),
        "sweeps": outcome.sweeps,
        "tied": outcome.tied,
        **agreement_fields(outcome.function),
        **file_fields(outcome.saved),
    }


PRESENTERS: Presenters = {
    VerifiedRotation: Presenter(
        fields=_fields,
        text=rotation_verdict,
        summary=rotation_text,
        code=lambda outcome: int(not outcome.holds),
    )
}

"""What folding norms did, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.presentation.presenter import Presenter
from rebasin_cli.wording import count

ROUNDING = 1e-6  # of a head that was tied in a folded model already


def _text(outcome: Folded) -> str:
    norms = f"{count(outcome.norms, 'norm')} became part of the weights that read them"
    folded = norms if outcome.norms else "no norm of it has a gain that folds, nothing changes"
    lines = [f"{outcome.model} folded: {folded}, spec {outcome.spec}"]
    lines += [*tied_lines(outcome.tied), *untied_lines(outcome.untied)]
    lines += function_lines(outcome.function)
    return "\n".join(lines)


def tied_lines(tied: float | None) -> list[str]:
    if tied is None or tied < ROUNDING:
        return []
    return [
        f"  the head stays tied to the embedding, {100 * tied:.2g} % off: "
        "outputs are nearly what they were, not exactly"
    ]


def untied_lines(heads: Sequence[str]) -> list[str]:
    if not heads:
        return []
    names = ", ".join(map(repr, heads))
    own = "the head is a tensor of its own" if len(heads) == 1 else "these are tensors of their own"
    return [f"  {own} now, {names}: tie_word_embeddings must be false"]


def function_lines(function: FunctionDifference | None) -> list[str]:
    if function is None:
        return []
    inputs = count(function.inputs, "random input")
    return [
        f"  outputs moved by {function.difference:.2g} of their scale ({inputs}, {function.dtype})"
    ]


def _fields(outcome: Folded) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "spec": outcome.spec,
        "norms": outcome.norms,
        "tied": outcome.tied,
        "untied": list(outcome.untied),
        "output_difference": outcome.function.difference if outcome.function else None,
    }


FOLDED: Presenter[Folded] = Presenter(
    fields=_fields, summary=_text, written=lambda outcome: outcome.written
)

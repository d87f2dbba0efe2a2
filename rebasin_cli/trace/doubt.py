"""Why a trace has no proof, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OTHER_INPUTS = "give it other inputs: --input file.py:function, or --input-shape"


@dataclass(frozen=True)
class Doubt:
    """A cause in words that follow a colon, and advice that follows `hint:`."""

    why: str
    advice: str


NOT_NUMBERS = Doubt("its outputs are NaN with random parameters", OTHER_INPUTS)
ONE_NUMBER = Doubt(
    "its outputs are empty or all one number, whatever its parameters are",
    f"{OTHER_INPUTS}, or name its outputs: --outputs NAME",
)
UNMOVED = Doubt(
    "its outputs stay when the parameters that would be permuted change",
    f"{OTHER_INPUTS}, or name its outputs: --outputs NAME",
)
TOO_LARGE = Doubt(
    "the model is too large to be run, and there is no small copy of it",
    "trace a smaller model of the class, and use its spec with --spec",
)
OTHER_COPY = Doubt(
    "the model is too large to be run, and its small copy has another spec",
    "trace a smaller model of the class, and use its spec with --spec",
)


def of_copy(doubt: Doubt | None) -> Doubt:
    """Return the doubt about a model whose small copy, run in its place, was not validated."""
    if doubt is None:
        return OTHER_COPY
    return Doubt(f"of the small copy that was run in its place, {doubt.why}", doubt.advice)


def of_idle_copy(names: Sequence[str]) -> Doubt:
    """Return the doubt about a model whose small copy makes no use of some parameters."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Doubt(
        f"the small copy that was run in its place makes no use of {names[0]}{more}", OTHER_INPUTS
    )

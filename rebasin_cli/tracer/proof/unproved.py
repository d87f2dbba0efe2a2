"""Why a trace has no proof, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Entry,
    Fixed,
    Named,
    Spec,
    rewritten,
    with_axes,
)
from rebasin_cli.wording import list_names

OTHER_INPUTS = "give it other inputs: --input file.py:function"


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
    idle = list_names(names, 1)
    return Doubt(f"the small copy that was run in its place makes no use of {idle}", OTHER_INPUTS)


def same_but_sizes(one: Spec, other: Spec) -> bool:
    """Return whether two specs say the same of the same patterns, whatever the sizes are."""
    return _sizeless(one) == _sizeless(other)


def _sizeless(spec: Spec) -> Spec:
    tensors = {name: without_sizes(entry) for name, entry in spec.tensors.items()}
    groups = {name: replace(declared, size=None) for name, declared in spec.groups.items()}
    return replace(spec, name="", description="", tensors=tensors, groups=groups)


def without_sizes(entry: Entry) -> Entry:
    """Return an entry whose fixed factors may have any size."""
    return with_axes(entry, _sizeless_axes)


def _sizeless_axes(axes: Axes) -> Axes:
    """Return axes whose fixed factors have no size; fixed axes at the end say nothing."""
    sizeless = [rewritten(axis, _sizeless_factor) for axis in axes]
    while sizeless and sizeless[-1] == Fixed():
        sizeless.pop()
    return tuple(sizeless)


def _sizeless_factor(factor: Named | Fixed) -> AxisExpr:
    return Fixed() if isinstance(factor, Fixed) else factor

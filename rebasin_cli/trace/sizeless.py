"""Specs without their sizes: what a model and its small copy have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebasin_cli.spec import Spec
from rebasin_cli.spec.model import AxisExpr, Entry, Fixed, Named, Split, rewritten


def same_but_sizes(one: Spec, other: Spec) -> bool:
    """Return whether two specs say the same of the same patterns, whatever the sizes are."""
    return _sizeless(one) == _sizeless(other)


def _sizeless(spec: Spec) -> Spec:
    tensors = {name: unsized(entry) for name, entry in spec.tensors.items()}
    groups = {name: replace(declared, size=None) for name, declared in spec.groups.items()}
    return replace(spec, name="", description="", tensors=tensors, groups=groups)


def unsized(entry: Entry) -> Entry:
    """Return an entry whose fixed factors may have any size."""
    if isinstance(entry, Split):
        return Split(entry.axis, tuple(_axes(part) for part in entry.parts))
    return _axes(entry)


def _axes(axes: Sequence[AxisExpr]) -> tuple[AxisExpr, ...]:
    """Return axes whose fixed factors have no size; fixed axes at the end say nothing."""
    sizeless = [rewritten(axis, _sizeless_factor) for axis in axes]
    while sizeless and sizeless[-1] == Fixed():
        sizeless.pop()
    return tuple(sizeless)


def _sizeless_factor(factor: Named | Fixed) -> AxisExpr:
    return Fixed() if isinstance(factor, Fixed) else factor

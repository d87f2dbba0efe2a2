"""Signs of units in a spec: a group of one unit inside each unit that may be multiplied by -1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.model import (
    SIGNED,
    AxisExpr,
    Declaration,
    Named,
    Product,
    Spec,
    Split,
    axis_names,
    leaves,
    parts_of,
    product,
    with_axes,
    with_parts,
)
from rebasin_cli.tracer.classes.signs.sign_forms import AxisPart, SignForm
from rebasin_cli.tracer.derivation.naming import shared_module

_NUMBER = re.compile(r"(?<![^.])(?:0|[1-9][0-9]*)\.")


@dataclass(frozen=True)
class SignedUnits:
    """A sign for each unit of a parent group, and the parts of tensors that it multiplies."""

    group: str
    parent: str
    parts: SignForm


def signed_units(found: Mapping[str, SignForm], taken: Iterable[str]) -> tuple[SignedUnits, ...]:
    """Return the signs of groups, named after the modules that have them. found: by parent."""
    names, units = set(taken), []
    for parent, parts in found.items():
        base = f"{shared_module(sorted(tensor for tensor, _, _ in parts))}sign"
        group = base if base not in names else f"{base}.{parent}"
        names.add(group)
        units.append(SignedUnits(group, parent, parts))
    return tuple(units)


def signs_in_spec(spec: Spec, units: Iterable[SignedUnits]) -> tuple[SignedUnits, ...]:
    """Return the signs that a spec has a place for, by its names of tensors and groups.

    Experts of a list are one there, an axis of names: what all of them have is said once.
    """
    known = {name for entry in spec.tensors.values() for name in _names(entry)}
    found: dict[str, SignedUnits] = {}
    for each in units:
        here = each if each.parent in known else _stacked(spec, each, known)
        if here is not None and all(_held(spec, here.parent, part) for part in here.parts):
            found.setdefault(here.parent, here)
    return tuple(found.values())


def _names(entry: object) -> set[str]:
    axes = () if isinstance(entry, Split) or not isinstance(entry, tuple) else entry
    return set(axis_names(axes))


def _stacked(spec: Spec, units: SignedUnits, known: set[str]) -> SignedUnits | None:
    """Return signs in one of several experts as those in all; None if it is no expert."""
    for match in _NUMBER.finditer(units.parent):
        place, number = units.parent[: match.start()], match[0]

        def renamed(name: str, inside: str, place: str = place, number: str = number) -> str:
            return name.replace(f"{place}{number}", f"{place}{inside}", 1)

        parts = {(renamed(name, "[e]."), axis + 1, k) for name, axis, k in units.parts}
        parent = renamed(units.parent, "")
        if parent in known and all(name in spec.tensors for name, _, _ in parts):
            return SignedUnits(renamed(units.group, ""), parent, frozenset(parts))
    return None


def _held(spec: Spec, parent: str, part: AxisPart) -> bool:
    """Return whether a tensor has the units of a group so many times on an axis."""
    entry = spec.tensors.get(part[0])
    if entry is None or isinstance(entry, Split) or part[1] >= len(entry):
        return False
    return list(leaves(entry[part[1]])).count(Named(parent)) > part[2]


def with_signs(spec: Spec, units: SignedUnits) -> Spec:
    """Return the spec with the signs of some units, a group inside of theirs."""
    tensors = dict(spec.tensors)
    for name in dict.fromkeys(tensor for tensor, _, _ in units.parts):
        entry = tensors[name]
        assert not isinstance(entry, Split)
        signed = [
            {k for tensor, at, k in units.parts if (tensor, at) == (name, axis)}
            for axis in range(len(entry))
        ]
        tensors[name] = tuple(
            _signed(tree, units, which) for tree, which in zip(entry, signed, strict=True)
        )
    declared = Declaration(size=1, per=units.parent, maps=SIGNED)
    return replace(spec, tensors=tensors, groups={**spec.groups, units.group: declared})


def _signed(tree: AxisExpr, units: SignedUnits, which: set[int]) -> AxisExpr:
    """Return an axis expression with a sign at some of the places where the units are."""
    count = -1

    def change(part: AxisExpr) -> AxisExpr:
        nonlocal count
        if parts_of(part):
            return with_parts(part, [change(inner) for inner in parts_of(part)])
        count += part == Named(units.parent)
        here = part == Named(units.parent) and count in which
        return product([part, Named(units.group)]) if here else part

    return change(tree)


def sign_groups(spec: Spec) -> dict[str, str]:
    """Return the groups that are signs of units, and the groups of these."""
    said = spec.groups.items()
    return {n: d.per for n, d in said if d.per and (d.size, d.maps) == (1, SIGNED)}


def without_signs(spec: Spec, names: Iterable[str]) -> Spec:
    """Return the spec without some groups that are signs."""
    gone = set(names)

    def bare(tree: AxisExpr) -> AxisExpr:
        parts = parts_of(tree)
        if isinstance(tree, Product):
            parts = tuple(f for f in parts if not (isinstance(f, Named) and f.name in gone))
        return with_parts(tree, list(map(bare, parts))) if parts else tree

    tensors = {
        name: with_axes(entry, lambda axes: tuple(map(bare, axes)))
        for name, entry in spec.tensors.items()
    }
    groups = {name: said for name, said in spec.groups.items() if name not in gone}
    return replace(spec, tensors=tensors, groups=groups)

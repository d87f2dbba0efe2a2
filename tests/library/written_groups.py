"""The groups of a spec, renamed or changed wherever they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from rebasin_cli.spec.language.model import (
    AxisExpr,
    Fixed,
    Named,
    Spec,
    Split,
    parts_of,
    with_parts,
)
from rebasin_cli.spec.language.model import Entry as Lines

Change = Callable[[Named | Fixed], AxisExpr]


def group_names(spec: Spec) -> list[str]:
    """Return the groups that stand in some tensor, in the order of first use."""
    found: dict[str, None] = {}

    def note(tree: AxisExpr) -> AxisExpr:
        if isinstance(tree, Named):
            found[tree.name] = None
        return tree

    for lines in spec.tensors.values():
        each_factor(lines, note)
    return list(found)


def mapped(lines: Lines, new: Mapping[str, str]) -> Lines:
    """Return the entry of a tensor with other names of groups."""
    return each_factor(
        lines, lambda leaf: Named(new[leaf.name]) if isinstance(leaf, Named) else leaf
    )


def each_factor(lines: Lines, change: Change) -> Lines:
    """Return the entry of a tensor with every factor changed."""
    if isinstance(lines, Split):
        parts = (tuple(_tree(axis, change) for axis in part) for part in lines.parts)
        return Split(lines.axis, tuple(parts))
    return tuple(_tree(axis, change) for axis in lines)


def _tree(tree: AxisExpr, change: Change) -> AxisExpr:
    if isinstance(tree, (Named, Fixed)):
        return change(tree)
    return with_parts(tree, [_tree(part, change) for part in parts_of(tree)])


def with_groups(spec: Spec, path: Callable[[str], str]) -> Spec:
    """Return a spec whose groups are named after paths in files."""
    new = {name: path(name) for name in group_names(spec)}
    assert len(set(new.values())) == len(new), sorted(new.values())
    groups = {
        new[name]: replace(said, per=new[said.per] if said.per else None)
        for name, said in spec.groups.items()
    }
    tensors = {key: mapped(lines, new) for key, lines in spec.tensors.items()}
    return replace(spec, groups=groups, tensors=tensors)

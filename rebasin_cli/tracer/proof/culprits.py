"""Find the groups that break the function, and take them out of a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import (
    AxisExpr,
    Declaration,
    Fixed,
    Named,
    Spec,
    rewritten,
    with_axes,
)

Breaks = Callable[[Mapping[str, Permutation]], bool]


def find_culprits(permutations: Mapping[str, Permutation], breaks: Breaks) -> list[str]:
    """Return the groups whose permutations break the function; see `find_by_halving`."""
    return find_by_halving(
        list(permutations), lambda some: breaks({n: permutations[n] for n in some})
    )


def find_by_halving(names: Sequence[str], breaks: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return those of some names that break something, found by halving.

    Names that only break it together are all returned.
    """
    if not names or not breaks(names):
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    found = [
        name for half in (names[:middle], names[middle:]) for name in find_by_halving(half, breaks)
    ]
    return found or list(names)


def without_own(permutation: Permutation) -> Permutation:
    """Return a child's permutation that is the same for every index of its parents."""
    row = permutation.index.reshape(-1, permutation.index.shape[-1])[0]
    return replace(permutation, index=row.expand_as(permutation.index).clone())


def drop_groups(spec: Spec, bound: BoundSpec, names: Iterable[str]) -> Spec:
    """Return the spec with some groups fixed; as parents of others they stay, fixed."""
    gone = set(names)
    parents = {group.per for group in spec.groups.values() if group.per}
    held = gone & {parent for parent in parents if parent is not None}
    sizes = {name: bound.groups[name].size for name in gone - held}
    groups = {name: declared for name, declared in spec.groups.items() if name not in sizes}
    for name in sorted(held):
        groups[name] = replace(groups.get(name, Declaration()), fixed=True)

    def fixed(factor: Named | Fixed) -> AxisExpr:
        if isinstance(factor, Named) and factor.name in sizes:
            return Fixed(sizes[factor.name])
        return factor

    tensors = {
        name: with_axes(entry, lambda axes: tuple(rewritten(axis, fixed) for axis in axes))
        for name, entry in spec.tensors.items()
    }
    return replace(spec, tensors=tensors, groups=groups)


def orphaned_groups(spec: Spec, bound: BoundSpec, names: Iterable[str]) -> Spec:
    """Return the spec in which some groups have one permutation for all indices of a parent.

    A fixed group that is nobody's parent any more is a fixed axis.
    """
    groups = dict(spec.groups)
    for name in names:
        groups[name] = replace(groups[name], per=None)
    parents = {declared.per for declared in groups.values()}
    idle = [n for n, declared in groups.items() if declared.fixed and n not in parents]
    return drop_groups(replace(spec, groups=groups), bound, idle)


def declared_one_sided(spec: Spec, names: Iterable[str]) -> Spec:
    """Return the spec with some groups declared one-sided: only written, or only read."""
    groups = dict(spec.groups)
    for name in names:
        groups[name] = replace(groups.get(name, Declaration()), one_sided=True)
    return replace(spec, groups=groups)

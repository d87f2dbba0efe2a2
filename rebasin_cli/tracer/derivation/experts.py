"""Experts that a model keeps as separate modules: which of them is which is a symmetry, too.

A program that runs over a list of experts treats each as a thing of its own, so that no operator
shows that they may change places. But their tensors are alike, and a router has as many units as
there are experts. What follows from that is a guess, to be proved by running the model.

Changing two experts changes keys of the checkpoint, not places on an axis: `experts.3.w` is
written where `experts.5.w` was, and so are two rows of the router. In a spec the key's index is
an axis like any other (`experts.[e].w: [e, ...]`), and what is hidden inside an expert has that
axis for a parent, since each expert's units have always been its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.language.model import (
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Spec,
    Split,
    entry_names,
    rewritten,
)
from rebasin_cli.tensors import TensorInfo

_MEMBER = re.compile(r"(?<![^.])(0|[1-9][0-9]*)\.")


@dataclass(frozen=True)
class ExpertFamily:
    """Modules of one list whose tensors are alike: PLACE.0.SUFFIX, PLACE.1.SUFFIX, ..."""

    place: str
    count: int
    suffixes: tuple[str, ...]

    def member(self, index: int, suffix: str) -> str:
        return f"{self.place}{index}.{suffix}"

    @property
    def names(self) -> set[str]:
        return {self.member(k, suffix) for k in range(self.count) for suffix in self.suffixes}


def expert_families(spec: Spec, infos: Mapping[str, TensorInfo]) -> Iterator[ExpertFamily]:
    """Yield the lists of modules that hold tensors of the same names and shapes.

    Layers of a network are such lists too; a router is what tells experts from them.
    """
    found: defaultdict[str, dict[int, dict[str, tuple[int, ...]]]] = defaultdict(dict)
    for name in spec.tensors:
        for match in _MEMBER.finditer(name):
            members = found[name[: match.start()]]
            shapes = members.setdefault(int(match[1]), {})
            if name in infos:
                shapes[name[match.end() :]] = infos[name].shape
    for place, members in found.items():
        alike = all(shapes == members.get(0) for shapes in members.values())
        if alike and len(members) > 1 and set(members) == set(range(len(members))):
            yield ExpertFamily(place, len(members), tuple(members[0]))


def routers(spec: Spec, family: ExpertFamily) -> list[tuple[str, int]]:
    """Return the fixed axes (tensor, position) with as many units as there are experts.

    Only those in the module that holds the list, and none of kernels. Fixed: each expert is a
    thing of its own for the program, and so is each unit of its router.
    """
    holder = family.place.rstrip(".").rpartition(".")[0]
    return [
        (name, axis)
        for name, entry in spec.tensors.items()
        if name.startswith(f"{holder}." if holder else "") and name not in family.names
        for axis, term in enumerate(() if isinstance(entry, Split) else entry[:2])
        if term == Fixed(family.count)
    ]


def stack_experts(
    spec: Spec, family: ExpertFamily, router: Sequence[tuple[str, int]]
) -> Spec | None:
    """Return the spec in which the experts are one axis of names, or None if they differ."""
    axis = family.place.rstrip(".")
    example = _example(spec, family)
    own = _own_groups(spec, family, example)
    # One expert speaks for all: its groups become one group each, with an order for every expert.
    # Two that would then have one name are no family of this kind.
    names = {name: name.replace(f"{family.place}{example}", axis, 1) for name in own}
    if len({*names.values(), axis} | (spec.groups.keys() - names.keys())) < len(names) + 1:
        return None
    tensors: dict[str, Entry] = {}
    for name, entry in spec.tensors.items():
        if name not in family.names:
            tensors[name] = _name_routed_axes(entry, [a for n, a in router if n == name], axis)
    for suffix in family.suffixes:
        entry = spec.tensors[family.member(example, suffix)]
        if isinstance(entry, Split):
            return None
        renamed = tuple(_rename_leaves(term, names) for term in entry)
        tensors[f"{family.place}[e].{suffix}"] = (Named(axis), *renamed)
    groups = {
        name: declared for name, declared in spec.groups.items() if not _belongs(name, spec, family)
    }
    for name in own:
        declared = spec.groups.get(name, Declaration())
        parent = names.get(declared.per, declared.per) if declared.per else axis
        groups[names[name]] = replace(declared, per=parent)
    return replace(spec, tensors=tensors, groups=groups)


def _example(spec: Spec, family: ExpertFamily) -> int:
    """Return the expert about which most is known: one that no input reached is all fixed."""

    def known(index: int) -> int:
        entries = (spec.tensors[family.member(index, suffix)] for suffix in family.suffixes)
        return sum(len(list(entry_names(entry))) for entry in entries)

    return max(range(family.count), key=lambda index: (known(index), -index))


def _own_groups(spec: Spec, family: ExpertFamily, index: int) -> list[str]:
    """Return the groups that occur in one expert and nowhere else, in order of first use."""
    inside = {family.member(index, suffix) for suffix in family.suffixes}
    own: dict[str, None] = {}
    shared: set[str] = set()
    for name, entry in spec.tensors.items():
        if name in inside:
            own |= dict.fromkeys(entry_names(entry))
        else:
            shared.update(entry_names(entry))
    return [group for group in own if group not in shared]


def _belongs(group: str, spec: Spec, family: ExpertFamily) -> bool:
    """Return whether a group occurs in the experts only."""
    return not any(
        group in entry_names(entry)
        for name, entry in spec.tensors.items()
        if name not in family.names
    )


def _name_routed_axes(entry: Entry, axes: Sequence[int], group: str) -> Entry:
    if isinstance(entry, Split) or not axes:
        return entry
    return tuple(Named(group) if axis in axes else term for axis, term in enumerate(entry))


def _rename_leaves(tree: AxisExpr, names: Mapping[str, str]) -> AxisExpr:
    def renamed(leaf: Named | Fixed) -> AxisExpr:
        return Named(names.get(leaf.name, leaf.name)) if isinstance(leaf, Named) else leaf

    return rewritten(tree, renamed)

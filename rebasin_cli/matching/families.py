"""Which groups must be solved together, and which may be solved side by side.

A family is a root group with all groups that have one permutation for each of its indices
(`per`), and theirs. Heads and the dims inside them are one family: swapping two heads is only
as good as the best order of dims inside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.permutation import parent_axis
from rebasin_cli.spec import BoundGroup, BoundSpec, without
from rebasin_cli.tensors import Block, BoundTensor


@dataclass(frozen=True)
class Family:
    """A root group, its members (root first, parents before children), and where they occur.

    The root may be fixed; then only what is inside its units moves.
    sites: the voting blocks in which the family occurs; idle groups are fixed dimensions there.
    elements: their total size. neighbours: roots of the families that meet this one in a block,
    itself included if it owns two dimensions of one block.
    """

    root: str
    members: tuple[BoundGroup, ...]
    sites: tuple[tuple[BoundTensor, Block], ...]
    elements: int
    neighbours: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(group.name for group in self.members)


def families(bound: BoundSpec, movable: frozenset[str] | None = None) -> dict[str, Family]:
    """Return the families that may move (None: all), by root, in the order of the groups."""
    members: dict[str, list[BoundGroup]] = {}
    for group in bound.groups.values():
        members.setdefault(group.root, []).append(group)
    sites: dict[str, list[tuple[BoundTensor, Block]]] = {root: [] for root in members}
    idle = bound.idle
    for tensor in bound.tensors:
        for whole in tensor.blocks if tensor.votes else ():
            block = without(whole, idle) if idle else whole
            for root in roots_in(block, bound.groups):
                sites[root].append((tensor, block))
    return {
        root: _family(root, members[root], sites[root], bound.groups)
        for root in members
        if sites[root]
        and (movable is None or root in movable)
        and not all(group.fixed for group in members[root])
    }


def _family(
    root: str,
    members: Sequence[BoundGroup],
    sites: Sequence[tuple[BoundTensor, Block]],
    groups: Mapping[str, BoundGroup],
) -> Family:
    met = {other for _, block in sites for other in roots_in(block, groups)} - {root}
    if any(list(block.groups).count(root) > 1 for _, block in sites):
        met.add(root)
    elements = sum(block.numel for _, block in sites)
    return Family(root, tuple(members), tuple(sites), elements, frozenset(met))


def roots_in(block: Block, groups: Mapping[str, BoundGroup]) -> list[str]:
    """Return the roots of the families that own a dimension of a block, each once."""
    return list(dict.fromkeys(groups[name].root for name in block.groups if name))


def occurrences(
    owners: Sequence[str | None], root: str, groups: Mapping[str, BoundGroup]
) -> list[tuple[int, ...]]:
    """Return, for each dimension that `root` owns, that dimension and those of its descendants.

    owners: the group of each dimension. Dimensions are listed root first, then by depth: the
    order in which they are solved.
    """
    found: dict[int, list[int]] = {k: [k] for k, name in enumerate(owners) if name == root}
    below = [k for k, name in enumerate(owners) if name and root in groups[name].parents]
    for axis in sorted(below, key=lambda k: (len(groups[owners[k] or ""].parents), k)):
        found[_root_axis(axis, owners, root, groups)].append(axis)
    return [tuple(axes) for axes in found.values()]


def _root_axis(
    axis: int, owners: Sequence[str | None], root: str, groups: Mapping[str, BoundGroup]
) -> int:
    while owners[axis] != root:
        axis = parent_axis(owners, axis, groups[owners[axis] or ""].parents[-1])
    return axis

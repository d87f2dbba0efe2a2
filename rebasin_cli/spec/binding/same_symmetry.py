"""Do two bound specs allow the same permutations?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.binding.cut_blocks import without_groups
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.tensors.blocks import Block


def same_symmetry(one: BoundSpec, other: BoundSpec) -> bool:
    """Return whether two specs of one checkpoint say the same, but for the names of groups.

    Groups that are fixed are not told from fixed axes, unless they are parents. Two specs that
    say one thing in different blocks (`4 * u` and `u + u + u + u`) are not recognised.
    """
    ours, theirs = _moving(one), _moving(other)
    if ours.keys() != theirs.keys():
        return False
    names: dict[str, str] = {}
    for members, (votes, blocks) in ours.items():
        same = theirs[members][0] == votes and len(theirs[members][1]) == len(blocks)
        pairs = zip(blocks, theirs[members][1], strict=False)
        if not same or not all(_same_block(a, b, names) for a, b in pairs):
            return False
    unique = len(set(names.values())) == len(names)
    return unique and all(
        _rename_group(one.groups[name], names)
        == replace(other.groups[names[name]], maps=PERMUTATION)
        for name in names
    )


Moving = Mapping[tuple[str, ...], tuple[bool, list[Block]]]


def _moving(bound: BoundSpec) -> Moving:
    """Return whether it votes, and its blocks in order, for each tensor that a group moves."""
    still = bound.idle
    found = {
        t.members: (
            t.votes,
            [without_groups(b, still) for b in sorted(t.blocks, key=lambda block: block.offset)],
        )
        for t in bound.tensors
    }
    return {members: said for members, said in found.items() if any(map(_moves, said[1]))}


def _moves(block: Block) -> bool:
    return any(block.groups)


def _same_block(one: Block, other: Block, names: dict[str, str]) -> bool:
    """Return whether two blocks agree; which groups correspond is noted in `names`."""
    if one.offset != other.offset or len(one.dims) != len(other.dims):
        return False
    for a, b in zip(one.dims, other.dims, strict=True):
        if (a.size, a.stride, a.group is None) != (b.size, b.stride, b.group is None):
            return False
        if a.group and b.group and names.setdefault(a.group, b.group) != b.group:
            return False
    return True


def _rename_group(group: BoundGroup, names: Mapping[str, str]) -> BoundGroup:
    parents = tuple(names.get(parent, parent) for parent in group.parents)
    return BoundGroup(names[group.name], group.shape, parents, group.fixed)

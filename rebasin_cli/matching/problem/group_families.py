"""Which groups must be solved together, and which may be solved side by side.

A family is a root group with all groups that have one permutation for each of its indices
(`per`), and theirs. Heads and the dims inside them are one family: swapping two heads is only
as good as the best order of dims inside them.

The objective is linear in a family with all others at rest, unless a block holds it twice; so
coordinate descent has families as its coordinates, and families that share no block do not see
each other's moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rebasin_cli.matching.problem.axis_chains import Chain, Site, roots_in, site_of
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.binding.cut_blocks import without_groups


@dataclass(frozen=True)
class GroupFamily:
    """A root group, its members (root first, parents before children), and where they occur.

    The root may be fixed; then only what is inside its units moves.
    sites: the voting blocks in which the family occurs; idle groups are fixed dimensions there.
    elements: their total size. neighbours: roots of the families that meet this one in a block,
    itself included if it owns two dimensions of one block.
    """

    root: str
    members: tuple[BoundGroup, ...]
    sites: tuple[Site, ...]
    elements: int
    neighbours: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(group.name for group in self.members)

    @property
    def meets_itself(self) -> bool:
        """Whether the family owns two dimensions of a block: the objective is quadratic in it.

        Its best order given all else is then no assignment: a visit maximises the linearisation
        at the present order, and is judged by the true objective.
        """
        return self.root in self.neighbours

    def own(self, site: Site) -> list[int]:
        """Return the positions of the family's chains in a site."""
        return [k for k, chain in enumerate(site.chains) if chain.groups[0] == self.root]

    def chains(self) -> list[Chain]:
        """Return the family's chains, each once."""
        return self._chains

    @cached_property
    def _chains(self) -> list[Chain]:
        found = (site.chains[k] for site in self.sites for k in self.own(site))
        return list({chain.groups: chain for chain in found}.values())


def families(bound: BoundSpec, movable: frozenset[str] | None = None) -> dict[str, GroupFamily]:
    """Return the families that may move (None: all), by root, in the order of the groups."""
    members: dict[str, list[BoundGroup]] = {}
    for group in bound.groups.values():
        members.setdefault(group.root, []).append(group)
    sites: dict[str, list[Site]] = {root: [] for root in members}
    idle = bound.idle
    for tensor in bound.tensors:
        for whole in tensor.blocks if tensor.votes else ():
            block = without_groups(whole, idle) if idle else whole
            here = site_of(tensor, block, bound.groups)
            for root in roots_in(block, bound.groups):
                sites[root].append(here)
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
    sites: Sequence[Site],
    groups: Mapping[str, BoundGroup],
) -> GroupFamily:
    # A family is a neighbour of itself only through a block that holds it twice: after a move
    # it then has to be visited again, as any neighbour has.
    met = {other for site in sites for other in roots_in(site.block, groups)} - {root}
    if any(list(site.block.groups).count(root) > 1 for site in sites):
        met.add(root)
    elements = sum(site.numel for site in sites)
    return GroupFamily(root, tuple(members), tuple(sites), elements, frozenset(met))


def sites_of(families: Mapping[str, GroupFamily]) -> list[Site]:
    """Return the sites of all families, each once."""
    return list({id(site): site for f in families.values() for site in f.sites}.values())

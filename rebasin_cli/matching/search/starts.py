"""Where a search begins. Every start has one signature and stands in `STARTS` by name.

From the identity coordinate descent gets stuck on residual networks: a planted order of a
residual perceptron is found in 2 to 9 runs of 10, from descriptors in 10 of 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

import torch

from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.similarity import sum_similarities
from rebasin_cli.matching.problem.similarity_cache import is_dense
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.permutation import Permutation, Permutations, identity
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import draw_permutations

Families = Mapping[str, GroupFamily]
Start = Callable[[Pair, Families, torch.Generator, Progress], dict[str, Permutation]]


def identity_start(
    pair: Pair, families: Families, generator: torch.Generator, progress: Progress
) -> dict[str, Permutation]:
    """Leave every unit where it is."""
    return {g.name: identity(g.shape, g.parents) for g in pair.groups.values()}


def random_start(
    pair: Pair, families: Families, generator: torch.Generator, progress: Progress
) -> dict[str, Permutation]:
    """Shuffle every group that may move."""
    moving = [group for family in families.values() for group in family.members]
    return {
        **identity_start(pair, families, generator, progress),
        **draw_permutations(moving, generator),
    }


def descriptor_start(
    pair: Pair, families: Families, generator: torch.Generator, progress: Progress
) -> dict[str, Permutation]:
    """Match each family on values that do not depend on the families not matched yet.

    The values of a unit over dimensions in unknown order are sorted, those over dimensions
    in known order stay in place. First comes the family of whose values most are in place, which
    is mostly one that reads the input or writes the output; it is then known to the others.
    Ours. Going by size instead, the residual stream first, ends a tenth lower on perceptrons of
    random weights, in three times the time.
    """
    everything = identity_start(pair, families, generator, progress)
    moving = {g.name for family in families.values() for g in family.members if not g.fixed}
    known = {name: p for name, p in everything.items() if name not in moving}
    waiting = {root: _in_place(family, known) for root, family in families.items()}
    places = {root: (-family.elements, k) for k, (root, family) in enumerate(families.items())}
    # Shares only rise as families become known, so an entry of the heap that is out of date
    # stands too low, not too high: a newer one of the same family has come before it.
    heap = sorted((-share, *places[root], root) for root, share in waiting.items())
    while waiting:
        progress("matching descriptors", len(families) - len(waiting), len(families))
        share, _, _, root = heappop(heap)
        if waiting.get(root) != -share:  # solved already, or found more in place since
            continue
        family = families[root]
        terms = pair.terms(family, known)
        votes = sum_similarities(terms, pair.pool) if is_dense(family, pair.groups) else list(terms)
        solution = solve_family(family.root, votes, Level(pair.groups, {}))
        for group in family.members:
            found = solution.index.get(group.name, everything[group.name].index)
            known[group.name] = Permutation(found, group.parents)
        del waiting[family.root]
        for root in family.neighbours & waiting.keys():
            waiting[root] = _in_place(families[root], known)
            heappush(heap, (-waiting[root], *places[root], root))
    return {name: known[name] for name in everything}


def _in_place(family: GroupFamily, known: Permutations) -> float:
    """Return the share of a family's values that meet no unknown dimension but one of its own."""
    found = 0
    for site in family.sites:
        own = family.own(site)
        others = [chain for k, chain in enumerate(site.chains) if k not in own]
        if len(own) == 1 and all(name in known for chain in others for name in chain.groups):
            found += site.numel
    return found / family.elements if family.elements else 0.0


STARTS: Mapping[str, Start] = {
    "descriptor": descriptor_start,
    "identity": identity_start,
    "random": random_start,
}

"""Which families of a search can be permuted softly, and what that takes."""

from __future__ import annotations

from rebasin_cli.matching.families import sites_of
from rebasin_cli.matching.frank_wolfe import Polytope
from rebasin_cli.matching.search import Search
from rebasin_cli.matching.soft import fields
from rebasin_cli.permutation import Permutations

MIDDLE = "barycenter"  # the start in the middle of all permutations
COPIES = 4  # of a model's tensors: as it is, and with each set of two chains permuted


def polytope(search: Search, meanwhile: Permutations) -> Polytope:
    """Return the soft permutations of the other model. meanwhile: what is not relaxed."""
    relaxed = frozenset(root for root, f in search.families.items() if search.kept.dense(f))
    sites = sites_of(search.families)
    chains = {chain.groups: chain for site in sites for chain in site.chains}
    still = {
        groups: chain.order(meanwhile)
        for groups, chain in chains.items()
        if groups[0] not in relaxed
    }
    here = {groups: chain.order({}) for groups, chain in chains.items() if groups in still}
    models = search.pair.reference, search.pair.other
    return Polytope(
        fields(models, sites, relaxed, [here, still]),
        [search.families[root] for root in search.families if root in relaxed],
        search.pair.groups,
        search.pool,
    )


def affordable(search: Search) -> bool:
    """Return whether the arrays of a walk fit into the memory that may be used."""
    words = sum(site.numel for site in sites_of(search.families)) * (1 + COPIES)
    for family in search.families.values():
        words += sum(3 * chain.size**2 for chain in family.chains())
    return words * search.pair.dtype.itemsize <= search.settings.max_memory

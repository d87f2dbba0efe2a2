"""Which families can be permuted softly, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.group_families import GroupFamily, sites_of
from rebasin_cli.matching.problem.similarity_cache import dense
from rebasin_cli.matching.relaxation.frank_wolfe import Polytope
from rebasin_cli.matching.relaxation.soft_fields import fields
from rebasin_cli.permutation import Permutations
from rebasin_cli.spec.binding.bound import BoundGroup

MIDDLE = "barycenter"  # the start in the middle of all permutations
# Copies of a model's tensors: as it is, with each set of two chains permuted, and what these are
# mixed from in a step.
COPIES = 10
WORDS = 4  # of a chain's soft permutation: itself, the slope, its parts that stay, and a vertex


def polytope(
    models: Sequence[DeviceTensors],
    families: Mapping[str, GroupFamily],
    groups: Mapping[str, BoundGroup],
    meanwhile: Sequence[Permutations],
    pool: Executor,
) -> Polytope:
    """Return the soft permutations of all models but the first.

    meanwhile: of each model; they hold for the families that are not relaxed, because they are
    too large or their groups too entangled.
    """
    relaxed = {root: family for root, family in families.items() if dense(family, groups)}
    sites = sites_of(families)
    chains = {chain.groups: chain for site in sites for chain in site.chains}
    still = [
        {key: chain.order(permutations) for key, chain in chains.items() if key[0] not in relaxed}
        for permutations in meanwhile
    ]
    arrays = fields(models, sites, frozenset(relaxed), still)
    return Polytope(arrays, list(relaxed.values()), groups, pool)


def words(families: Mapping[str, GroupFamily], models: int) -> int:
    """Return how many numbers a walk of some models beside a reference holds."""
    soft = sum(chain.size**2 for f in families.values() for chain in f.chains())
    arrays = sum(site.numel for site in sites_of(families))
    return arrays + models * (COPIES * arrays + WORDS * soft)

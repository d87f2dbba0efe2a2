"""Whether a search that ended leaves any doubt: what else there is would have to be far worse.

Of models that belong together (one a permuted relative of the other) every unit is worth several
times as much with its partner as with any other unit, once all else is in place; a descent that
is stuck, and models trained apart, have many units that might as well be elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache, is_dense
from rebasin_cli.permutation import Permutations

# With noise as large as the weights, planted orders leave 97 to 100 of 100 units of every family as
# far ahead (residual perceptrons, a ResNet); of networks trained apart it is 0 to 8, on average.
WIDE = 2.0
NEARLY_ALL = 0.95  # of a family's units: there may be dead ones and equal ones
AT_ONCE = 1 << 24  # similarities held beside those that are kept


def beyond_doubt(cache: SimilarityCache, permutations: Permutations) -> bool:
    """Return whether nearly every unit's partner is worth WIDE times any other, both ways.

    permutations: where a descent ended. What is not matched on similarities has to have only
    families around it that are: its order is then the best there is with those in place.
    """
    groups, families = cache.pair.groups, cache.families
    # In the order of the families: what is kept must not depend on how a set is ordered.
    seen = [root for root, family in families.items() if is_dense(family, groups)]
    others = (families[root] for root in families.keys() - {*seen})
    known = all(family.neighbours & families.keys() <= {*seen} for family in others)
    return bool(seen) and known and all(_sure(cache, families[root], permutations) for root in seen)


def _sure(cache: SimilarityCache, family: GroupFamily, permutations: Permutations) -> bool:
    similarities = {s.groups: s.matrix() for s in cache.similarities(family, permutations)}
    return all(
        float(_ahead(similarities[chain.groups], chain.order(permutations)).double().mean())
        >= NEARLY_ALL
        for chain in family.chains()
    )


def _ahead(values: Tensor, order: Tensor) -> Tensor:
    """Return for each unit (n,) whether its partner is far ahead, of similarities (n, n).

    What a whole row or column has in common is left out, as it decides nothing: gains of norms,
    all near 1, would make every unit like every other.
    """
    order = order.to(values.device)
    across = values.mean(1) - values.mean() / 2, values.mean(0) - values.mean() / 2
    partner = values.gather(1, order[:, None])[:, 0] - across[0] - across[1][order]
    rows, columns = list[Tensor](), torch.full_like(partner, -torch.inf)
    for part in _others(values, across, order):
        rows.append(part.amax(1))
        columns = torch.maximum(columns, part.amax(0))
    next_best = torch.maximum(torch.cat(rows), columns[order])
    return (partner > 0) & (partner >= WIDE * next_best)


def _others(values: Tensor, across: tuple[Tensor, Tensor], order: Tensor) -> Iterator[Tensor]:
    """Yield some rows at a time, less what each row and column adds, without partners."""
    step = max(1, AT_ONCE // len(values))
    for start in range(0, len(values), step):
        here = slice(start, start + step)
        part = values[here] - across[0][here, None] - across[1]
        yield part.scatter_(1, order[here, None], -torch.inf)

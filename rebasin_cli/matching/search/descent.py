"""Coordinate descent over families, driven by a work list instead of sweeps.

A family is visited again only if a family it shares a block with has moved since. Families
that share no block are visited side by side; which ones does not depend on the number of
threads, so neither does the result.

Ainsworth, Hayase, Srinivasa 2023, Algorithm 1, with the same ends: when the list is empty no
family has a better order with all others in place, as after a sweep that moves nothing. Every
accepted move raises the objective by more than rounding, and there are finitely many orders, so
it comes to an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.joint import Level, solve_family
from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.settings import ORDERS, Settings
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.matching.search.threads import threads
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import InMemory, TensorSource

SOLVING = 16  # bytes for each pair of units
# Of a block that a product is over: both models as loaded, the other in its order, both as factors.
OPERANDS, WORD = 5, 4
TOLERANCE = 1e-7  # of |reference| |other| in the family's blocks: float32's resolution


@dataclass(frozen=True)
class Descent:
    """Where a descent ended.

    gains: rise of the objective at each accepted step. sweeps: how many of them had been made
    after as many visits as there are families, after twice as many, and so on.
    """

    permutations: Permutations
    gains: tuple[float, ...]
    converged: bool
    sweeps: tuple[int, ...] = ()

    def later_rise(self, visits: int) -> float:
        """Return by how much the objective rose once each family had had some visits."""
        return sum(self.gains[self.sweeps[visits - 1] :]) if visits <= len(self.sweeps) else 0.0


@dataclass(frozen=True)
class Move:
    """New permutations of one family, and how much the objective rises with them."""

    permutations: Mapping[str, Permutation]
    gain: float


def descend(
    cache: SimilarityCache,
    start: Permutations,
    *,
    order: Sequence[str],
    visits: int,
    progress: Progress = silent,
) -> Descent:
    """Improve family after family until none can rise, or each was visited `visits` times.

    order: the roots, in the order of the first visits.
    """
    families = cache.families
    permutations, gains, sweeps = dict(start), list[float](), list[int]()
    first = {root: k for k, root in enumerate(order)}
    waiting, done, limit = dict.fromkeys(order), 0, visits * len(order)
    while waiting and done < limit:
        # All of a batch see the same permutations and move together. Sharing no block, none
        # changes another's similarity or gain, so it is as if they had moved one by one.
        batch = _apart(waiting, families)[: limit - done]
        for root in batch:
            del waiting[root]
        done += len(batch)
        step = partial(visit, cache, permutations=dict(permutations))
        parts = _affordable([families[root] for root in batch], cache.limit)
        moves = chain.from_iterable(cache.pair.pool.map(step, part) for part in parts)
        for root, move in zip(batch, moves, strict=True):
            if move is None:
                continue
            permutations.update(move.permutations)
            gains.append(move.gain)
            # Not the family itself, unless it meets itself: with all else in place it is at its
            # best. Those that wait already keep their turn.
            touched = families[root].neighbours & families.keys()
            waiting.update(dict.fromkeys(sorted(touched - waiting.keys(), key=first.__getitem__)))
        sweeps += [len(gains)] * (done // len(order) - len(sweeps))
        progress("matching", len(order) - len(waiting), len(order))
    return Descent(permutations, tuple(gains), not waiting, tuple(sweeps))


def _apart(waiting: Iterable[str], families: Mapping[str, GroupFamily]) -> list[str]:
    """Return the first families of the list that share no block with one another."""
    batch, chosen = list[str](), set[str]()
    for root in waiting:
        if chosen.isdisjoint(families[root].neighbours):
            batch.append(root)
            chosen.add(root)
    return batch


def _affordable(batch: Sequence[GroupFamily], room: int) -> Iterator[list[GroupFamily]]:
    """Yield families that may be visited side by side within some bytes; large ones alone."""
    part, left = list[GroupFamily](), room
    for family in batch:
        needed = _visit_memory(family)
        if part and needed > left:
            yield part
            part, left = [], room
        part.append(family)
        left -= needed
    yield part


def _visit_memory(family: GroupFamily) -> int:
    """Return the bytes that a visit of a family takes in float32, besides what is cached.

    First products, then assignments: of n units n^2 costs in float64, and the solver's copy.
    """
    solving = max((SOLVING * each.size**2 for each in family.chains()), default=0)
    return max(solving, OPERANDS * WORD * max((site.numel for site in family.sites), default=0))


def visit(cache: SimilarityCache, family: GroupFamily, permutations: Permutations) -> Move | None:
    """Return the best move of one family with all others in place, or None if it should stay.

    Where the root owns two dimensions of a block, the assignment sees only a linearisation:
    the move is then accepted on the true objective. Without that a family could go to and fro
    for ever, since the maximum of a linearisation may be worth less than where it was made.
    """
    current = {name: permutations[name].index for name in family.names}
    votes = cache.votes(family, permutations)
    solution = solve_family(family.root, votes, Level(cache.pair.groups, current))
    moved = {
        name: replace(permutations[name], index=index)
        for name, index in solution.index.items()
        if not torch.equal(index, current[name])
    }
    if not moved:
        return None
    gain = cache.gain(family, votes, permutations, {**permutations, **moved})
    return Move(moved, gain) if gain > TOLERANCE * cache.pair.scale(family) else None


def projection(
    other: TensorSource,
    bound: BoundSpec,
    settings: Settings,
    *,
    dtype: torch.dtype,
    movable: frozenset[str] | None = None,
) -> Callable[[Mapping[str, Tensor], Permutations], Permutations]:
    """Return what descends to the permutations of `other` nearest to some weights.

    It takes the voting tensors of the target, in `dtype` and on the device of the settings, and
    the permutations to descend from. Where these are the best already it costs one similarity
    and one assignment a group.
    """
    device, room = torch.device(settings.device), settings.max_memory // 4
    moving = families(bound, movable)
    order = ORDERS[settings.order](list(moving), torch.Generator().manual_seed(settings.seed))
    b = DeviceTensors(other, label="the other model", device=device, dtype=dtype, limit=room)

    def project(target: Mapping[str, Tensor], start: Permutations) -> Permutations:
        held = InMemory(target)
        a = DeviceTensors(held, label="the free parameters", device=device, dtype=dtype, limit=room)
        # nothing outlives a target: all that is kept of similarities are products with it
        with threads(settings, moving) as pool:
            cache = SimilarityCache(Pair(a, b, bound.groups, pool), moving, room)
            found = descend(cache, start, order=order, visits=settings.visits)
        return found.permutations

    return project

"""How many models are brought into one frame before they are averaged.

Every strategy has one signature and stands in `STRATEGIES` by name. What each returns is a
permutation to the reference's frame for every model, so any two models agree on how they
map to one another by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch

from rebasin_cli.matching.many.match_many import Alignment, ManyRequest, ModelSum, pair_objective
from rebasin_cli.matching.many.sweeps import synchronise_in_sweeps
from rebasin_cli.matching.many.synchronisation import synchronise
from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.relaxation.frank_wolfe import FrankWolfe
from rebasin_cli.matching.relaxation.polytope import polytope
from rebasin_cli.matching.search.threads import threads
from rebasin_cli.permutation import Permutations

ROUNDS = 100  # as published; merges of real networks settle within ten


def none(request: ManyRequest) -> Alignment:
    """Leave every model as it is."""
    return Alignment(tuple(request.still() for _ in request.sources))


def star(request: ManyRequest) -> Alignment:
    """Align each model to the reference alone."""
    still, reference = request.still(), request.reference
    found = (
        still if which == reference else request.match(reference, which)
        for which in range(len(request.sources))
    )
    return Alignment(tuple(found), rounds=1)


def many(request: ManyRequest) -> Alignment:
    """Align each model to the sum of all others, in turn, until no model moves.

    Source: MergeMany, Ainsworth, Hayase, Srinivasa 2023, Algorithm 3. Deviations: (1) the
    models join the sum one after another, each matched to those already in it, since from the
    identity the ascent gets stuck lower on residual networks; each of `restarts` does the same
    from random orders of units; (2) the result is mapped back to the reference's frame, which
    changes no distance. Memory: the sum and one model, however many there are.
    """
    best = _from_joined(request)
    for restart in range(request.settings.restarts):
        seed = request.settings.seed + 1 + restart
        random = replace(request, settings=replace(request.settings, starts=("random",), seed=seed))
        best = _better(request, best, _from_joined(random))
    return best.at_home(request.reference)


def universe(request: ManyRequest) -> Alignment:
    """Walk with all models at once through the polytope of soft permutations, then ascend.

    Source: C2M3, Crisostomi et al. 2024 (arXiv 2405.17897). Deviations: see `frank_wolfe`; the
    rounded models are improved as `many` improves its own, and the better of the two is kept.
    Memory: several copies of every model.
    """
    walked = Alignment(walk_together(request))
    found = _ascent(request, walked, range(len(request.sources)))
    return _better(request, many(request), found).at_home(request.reference)


def _from_joined(request: ManyRequest) -> Alignment:
    """Match each model to the sum of the reference and those before it, then ascend."""
    joined = _joined(request)
    last = max((k for k in range(len(request.sources)) if k != request.reference), default=None)
    return _ascent(request, joined, () if last is None else _after_move(last, joined))


def _joined(request: ManyRequest) -> Alignment:
    """Match each model to the sum of the reference and those before it; the sum is let go of."""
    total, permutations = ModelSum(request), list(none(request).permutations)
    total.add(request.reference, permutations[request.reference])
    others = [which for which in range(len(permutations)) if which != request.reference]
    for which in others:
        permutations[which] = total.match(which)
        total.add(which, permutations[which])
    return Alignment(tuple(permutations), rounds=1)


def _ascent(request: ManyRequest, start: Alignment, waiting: Iterable[int]) -> Alignment:
    """Match models to the sum of all others, in rounds of random order, until none moves.

    waiting: those that may not be at their best yet, the others in their places.
    """
    total, permutations = ModelSum(request), list(start.permutations)
    for which, own in enumerate(permutations):
        total.add(which, own)
    left, rounds = set(waiting), start.rounds
    generator = torch.Generator().manual_seed(request.settings.seed)
    while left and rounds < ROUNDS:
        rounds += 1
        for which in torch.randperm(len(permutations), generator=generator).tolist():
            if which not in left:
                continue
            left.remove(which)
            found = total.improve(which, permutations[which])
            if not _equal(found, permutations[which]):
                permutations[which] = found
                left |= _after_move(which, start)
    return Alignment(tuple(permutations), rounds, not left)


def _after_move(moved: int, alignment: Alignment) -> set[int]:
    """Return the models that may not be at their best once one has found its best place.

    Of two models none: bringing either next to the other is the same problem.
    """
    count = len(alignment.permutations)
    return set(range(count)) - {moved} if count > 2 else set()


def _better(request: ManyRequest, best: Alignment, found: Alignment) -> Alignment:
    values = [pair_objective(request, each.permutations) for each in (best, found)]
    return found if values[1] > values[0] else best


def _equal(a: Permutations, b: Permutations) -> bool:
    return all(a[name] == b[name] for name in b)


STRATEGIES: Mapping[str, Callable[[ManyRequest], Alignment]] = {
    "many": many,
    "universe": universe,
    "star": star,
    "sync": synchronise,
    "sync-sweeps": synchronise_in_sweeps,
    "none": none,
}


def walk_together(request: ManyRequest) -> tuple[Permutations, ...]:
    """Return the rounded end of a walk from the middle of all permutations, one a model.

    Families that are not relaxed are those of a match to the reference meanwhile.
    """
    count, reference = len(request.sources), request.reference
    others = [which for which in range(count) if which != reference]
    order, settings = [reference, *others], request.settings
    models = load_models(
        [request.sources[k] for k in order],
        [request.labels[k] for k in order],
        settings.device,
        settings.max_memory,
    )
    moving = families(request.bound, request.movable)
    groups = request.bound.groups
    with threads(settings, moving) as pool:
        meanwhile = [request.still()] * count
        space = polytope(models, moving, groups, meanwhile, pool)
        if not space.families or not others:
            return tuple(meanwhile)
        walk = FrankWolfe(space, [None] * len(others))
        walk.run(progress=request.progress)
        found = walk.rounded()
    rounded = {which: {**request.still(), **found[k]} for k, which in enumerate(others)}
    return tuple(rounded.get(which, request.still()) for which in range(count))

"""All models at once: a joint walk through the polytope of their soft permutations."""

from __future__ import annotations

from rebasin_cli.matching.families import families
from rebasin_cli.matching.frank_wolfe import Walk
from rebasin_cli.matching.loaded import loaded
from rebasin_cli.matching.many import Request
from rebasin_cli.matching.relax import polytope
from rebasin_cli.matching.threads import threads
from rebasin_cli.permutation import Permutations


def walked(request: Request) -> tuple[Permutations, ...]:
    """Return the rounded end of a walk from the middle of all permutations, one a model.

    Families that are not relaxed are those of a match to the reference meanwhile.
    """
    count, reference = len(request.sources), request.reference
    others = [which for which in range(count) if which != reference]
    order, settings = [reference, *others], request.settings
    models = loaded(
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
        walk = Walk(space, [None] * len(others))
        walk.run(progress=request.progress)
        found = walk.rounded()
    rounded = {which: {**request.still(), **found[k]} for k, which in enumerate(others)}
    return tuple(rounded.get(which, request.still()) for which in range(count))

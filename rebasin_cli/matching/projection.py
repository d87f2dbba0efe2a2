"""The order of a model's units nearest to weights that keep changing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rebasin_cli.matching.descent import descend
from rebasin_cli.matching.families import families
from rebasin_cli.matching.kept import Kept
from rebasin_cli.matching.loaded import Loaded
from rebasin_cli.matching.settings import ORDERS, Settings
from rebasin_cli.matching.terms import Pair
from rebasin_cli.matching.threads import threads
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import silent
from rebasin_cli.spec import BoundSpec
from rebasin_cli.tensors import InMemory, TensorSource


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
    b = Loaded(other, label="the other model", device=device, dtype=dtype, limit=room)

    def project(target: Mapping[str, Tensor], start: Permutations) -> Permutations:
        held = InMemory(target)
        a = Loaded(held, label="the free parameters", device=device, dtype=dtype, limit=room)
        # nothing outlives a target: all that is kept of similarities are products with it
        kept = Kept(Pair(a, b, bound.groups), moving, room)
        with threads(settings, moving) as pool:
            visits = settings.visits
            found = descend(
                kept, moving, start, order=order, visits=visits, pool=pool, progress=silent
            )
        return found.permutations

    return project

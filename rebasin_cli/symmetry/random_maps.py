"""Random maps of every group, each of its class: what proves that a spec allows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from rebasin_cli.permutation import random_permutation
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.class_solvers import SOLVERS
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap


def draw_maps(
    groups: Iterable[BoundGroup], classes: Mapping[str, str], generator: torch.Generator
) -> GroupMaps:
    """Return a random map of each group that is not fixed.

    The best map of a class for random similarities is a random one of it: of orthogonal matrices
    uniformly so, since the polar factor of a Gaussian matrix has no preferred direction.
    """
    permutations, linear = {}, {}
    for group in groups:
        if classes[group.name] != PERMUTATION:
            noise = torch.randn(*group.shape, group.size, generator=generator, dtype=torch.float64)
            flat = SOLVERS[classes[group.name]](noise.reshape(-1, group.size, group.size))
            linear[group.name] = OrthogonalMap(flat.reshape(noise.shape), group.parents)
        elif not group.fixed:
            permutations[group.name] = random_permutation(group.shape, group.parents, generator)
    return GroupMaps(permutations, linear)

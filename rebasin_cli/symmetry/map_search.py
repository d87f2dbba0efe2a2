"""Finding the maps that bring one folded model next to another, in memory or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.permutation import identity
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.held_search import HeldSearch, voting_tensors
from rebasin_cli.symmetry.map_memory import fits_whole
from rebasin_cli.symmetry.map_sweeps import RISE, MapMatching
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap
from rebasin_cli.symmetry.streamed_search import StreamedSearch
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.torch_threads import one_thread


@dataclass(frozen=True)
class MapSettings:
    """How maps are searched for.

    rise: share of the objective that a sweep has to gain, or the search ends. max_memory: bytes;
    models that do not fit whole are read as they are needed, unless there are moments; None: they
    fit. device: where products and factors are taken. dtype: of products; None: float64, or float32
    for models of 16 bits that are not held.
    """

    rise: float = RISE
    max_memory: int | None = None
    device: str = "cpu"
    dtype: torch.dtype | None = None


def match_maps(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    classes: Mapping[str, str],
    *,
    moments: Mapping[str, Tensor] | None = None,
    settings: MapSettings = MapSettings(),
    progress: Progress = silent,
) -> MapMatching:
    """Return the maps of `other` that bring it next to `reference`, on the CPU; both are folded.

    bound: `FoldPlan.moving`, or a part of it. classes: group -> solver, `FoldPlan.classes`.
    moments: E[y_A y_B'] of what the models do on data, by stream, float64 (d, d); None: by weights
    alone. On one thread: the rounding of a product does not depend on the load of the machine.
    Raises NotFiniteError.
    """
    device, rise, memory = settings.device, settings.rise, settings.max_memory
    start = identity_maps(bound, classes).to(device)
    with one_thread():
        if memory is not None and not fits_whole(bound, memory) and not moments:
            both = reference, other
            streamed = StreamedSearch(
                bound, classes, start, *both, rise=rise, device=device, dtype=settings.dtype
            )
            return _on_cpu(streamed.run(progress))
        exact = settings.dtype or torch.float64
        a, b = (
            voting_tensors(bound, model, dtype=exact, device=device) for model in (reference, other)
        )
        seen = {name: each.to(device) for name, each in (moments or {}).items()}
        held = HeldSearch(bound, classes, start, a, b, moments=seen, rise=rise)
        return _on_cpu(held.run(progress))


def _on_cpu(found: MapMatching) -> MapMatching:
    return replace(found, maps=found.maps.to("cpu"))


def cosine_of(
    reference: TensorSource, other: TensorSource, bound: BoundSpec, classes: Mapping[str, str]
) -> float:
    """Return the cosine of two folded models as they are, as `match_maps` takes it.

    Raises NotFiniteError.
    """
    a, b = (voting_tensors(bound, model) for model in (reference, other))
    return HeldSearch(bound, classes, identity_maps(bound, classes), a, b).cosine()


def identity_maps(bound: BoundSpec, classes: Mapping[str, str]) -> GroupMaps:
    """Return the maps that move nothing."""
    permuted = {n: g for n, g in bound.groups.items() if classes[n] == PERMUTATION}
    return GroupMaps(
        {name: identity(group.shape, group.parents) for name, group in permuted.items()},
        {
            name: OrthogonalMap(
                torch.eye(group.size, dtype=torch.float64).expand(*group.shape, group.size),
                group.parents,
            )
            for name, group in bound.groups.items()
            if name not in permuted
        },
    )

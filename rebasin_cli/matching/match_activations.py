"""Activation matching: units are brought next to those that do the same on data.

A similarity S of units is the weight matching of two tensors: with the identity as the reference
and S as the other, both (n, units), the objective <I, S P> is the sum of the similarities of
partners. So everything that is known of weights holds here too: groups inside groups, several
places that vote for one group, fixed parents.

What a unit does is not changed by reordering the units of other layers. So S needs one pass over
the data, and a family that shares no place with another family is solved exactly by one assignment
(Ainsworth et al. 2023, section 3.1). S[i, j] compares unit i of the reference with unit j of the
other, over all inputs and places, by the measure that `--similarity` names.

A place is a tensor of the forward pass whose units belong to some groups (a point of the trace). A
family is covered if each of its groups that may move occurs at some place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.device_tensors import DeviceTensors, load_models
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.measure import Measured, measure
from rebasin_cli.matching.problem.result import Matching, Status
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import Derived, InMemory, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim
from rebasin_cli.tensors.derived import Gathered


@dataclass(frozen=True)
class PlaceSimilarity:
    """The similarity of the units at one place.

    dims: the groups whose product the units are, outer first, with their sizes. values: (n, n),
    rows of the reference, columns of the other. Scaled so that places can be added: along any
    assignment the values sum to at most 1.
    """

    dims: tuple[tuple[str, int], ...]
    values: Tensor


@dataclass(frozen=True)
class BoundModels:
    """Two models under one spec. movable: roots of the families that may move; None: all."""

    reference: TensorSource
    other: TensorSource
    bound: BoundSpec
    movable: frozenset[str] | None = None
    labels: tuple[str, str] = ("reference", "other")


def match_activations(
    models: BoundModels,
    similarities: Sequence[PlaceSimilarity],
    settings: Settings,
    *,
    mix: float = 1.0,
    progress: Progress = silent,
) -> Matching:
    """Return the permutations that bring the units of `other` to those that do the same.

    mix: share of the activations; the rest are the weights, scaled so that for each family both
    could reach the same. Families that are not covered are matched on weights alone. Objective,
    distance and the figures of groups are those of the weights. Raises as `match_weights` does.
    """
    places = places_of_covered_families(models.bound, similarities)
    covered = covered_roots(models.bound, places)
    movable = _movable_roots(models)
    if mix < 1:
        found = _match_on_both(models, places, mix, settings, progress)
    else:
        found = _match_in_turn(models, places, covered, settings, progress)
    kept = {name: p for name, p in found.permutations.items() if name in models.bound.groups}
    measured = measure(*_load_pair(models, settings), models.bound, kept)
    return replace(
        found,
        permutations=kept,
        status=_status(found, measured, bool(movable)),
        objective=measured.objective,
        distance=measured.distance,
        groups=measured.groups,
        method="activations",
    )


def covered_roots(bound: BoundSpec, places: Sequence[PlaceSimilarity]) -> frozenset[str]:
    """Return the roots of the covered families: every group that may move occurs at some place.

    A family is solved as one: with places for the heads and none for the dims inside them, these
    would end in any order.
    """
    present = {group for place in places for group, _ in place.dims}
    incomplete = {g.root for g in bound.groups.values() if not g.fixed and g.name not in present}
    return frozenset(bound.groups[name].root for name in present) - incomplete


def places_of_covered_families(
    bound: BoundSpec, places: Sequence[PlaceSimilarity]
) -> list[PlaceSimilarity]:
    """Return the places at which all groups are of covered families.

    In rounds, until no place is dropped: a dropped one may have been what covered another family.
    """
    kept = list(places)
    while True:
        covered = covered_roots(bound, kept)
        left = [p for p in kept if {bound.groups[g].root for g, _ in p.dims} <= covered]
        if len(left) == len(kept):
            return kept
        kept = left


def _match_in_turn(
    models: BoundModels,
    places: Sequence[PlaceSimilarity],
    covered: frozenset[str],
    settings: Settings,
    progress: Progress,
) -> Matching:
    """Match covered families on activations, then all others on weights with those in place."""
    movable = _movable_roots(models)
    # Once is enough: the first matching looks at no weights, so the second cannot change it.
    bound, reference, other = _as_tensors(models.bound, places, dict.fromkeys(movable, 1.0))
    found = match_weights(
        InMemory(reference),
        InMemory(other),
        bound,
        settings=replace(settings, method="weights", starts=("descriptor", "identity")),
        movable=movable & covered,
        labels=models.labels,
        progress=progress,
    )
    if not movable - covered:
        return found
    rest = match_weights(
        models.reference,
        Permuted(models.other, models.bound.tensors, found.permutations),
        models.bound,
        settings=settings,
        movable=movable - covered,
        labels=models.labels,
        progress=progress,
    )
    permutations = {
        name: (found if group.root in covered else rest).permutations.get(name)
        for name, group in models.bound.groups.items()
    }
    return replace(found, permutations={n: p for n, p in permutations.items() if p is not None})


def _match_on_both(
    models: BoundModels,
    places: Sequence[PlaceSimilarity],
    mix: float,
    settings: Settings,
    progress: Progress,
) -> Matching:
    """Match on (1 - mix) <A, P B> + mix sum over places of w <I, S P>, as one objective.

    Similarities end at 1 and inner products at |A| |B|; w (see `_share`) makes both end alike.
    Weights of the reference are scaled and not those of both, or mix would count twice.
    """
    a, b = _load_pair(models, settings)
    every = families(models.bound)
    pair = Pair(a, b, models.bound.groups)
    worth = {root: mix * _share(pair, family, places) for root, family in every.items()}
    bound, reference, other = _as_tensors(models.bound, places, worth)
    whole = replace(models.bound, tensors=(*models.bound.tensors, *bound.tensors))
    return match_weights(
        _with_tensors(_Scaled(models.reference, 1 - mix), reference),
        _with_tensors(models.other, other),
        whole,
        settings=settings,
        movable=models.movable,
        labels=models.labels,
        progress=progress,
    )


def _share(pair: Pair, family: GroupFamily, places: Sequence[PlaceSimilarity]) -> float:
    """Return the factor of one place's similarity, so that all places of a family together can
    reach what its weights can."""
    own = sum(any(group == family.root for group, _ in place.dims) for place in places)
    return pair.scale(family) / own if own else 0.0


def _as_tensors(
    bound: BoundSpec, places: Sequence[PlaceSimilarity], worth: Mapping[str, float]
) -> tuple[BoundSpec, dict[str, Tensor], dict[str, Tensor]]:
    """Return similarities as two models under a spec of their own: the identity, and themselves.

    worth: their factors, by the root of a family; a place of several families has that of the
    first.
    """
    tensors, reference, other = [], {}, {}
    for number, place in enumerate(places):
        name, units = f"activations {number}", prod(size for _, size in place.dims)
        steps = [prod(size for _, size in place.dims[k + 1 :]) for k in range(len(place.dims))]
        dims = [
            Dim(size, step, group) for (group, size), step in zip(place.dims, steps, strict=True)
        ]
        block = Block(0, (Dim(units, units), *dims))
        tensors.append(BoundTensor((name,), False, (units, units), (block,), votes=True))
        root = bound.groups[place.dims[0][0]].root
        # Rows are one fixed dimension, columns move: <I, S[:, p]> = sum over i of S[i, p[i]].
        reference[name] = torch.eye(units, dtype=place.values.dtype)
        share = worth.get(root, 0.0)
        other[name] = place.values if share == 1 else place.values * share  # they may be large
    empty = replace(bound, tensors=tuple(tensors), untouched=(), buffers=frozenset())
    return empty, reference, other


def _movable_roots(models: BoundModels) -> frozenset[str]:
    """Return the roots of the families that may move."""
    free = frozenset(g.root for g in models.bound.groups.values() if not g.fixed)
    return free if models.movable is None else free & models.movable


def _load_pair(models: BoundModels, settings: Settings) -> tuple[DeviceTensors, DeviceTensors]:
    sources = models.reference, models.other
    a, b = load_models(sources, models.labels, settings.device, settings.max_memory)
    return a, b


def _status(found: Matching, measured: Measured, movable: bool) -> Status:
    if measured.distance.before == 0:
        return Status.EQUAL
    if not movable:
        return Status.NOTHING
    if measured.distance.after == 0:
        return Status.EXACT
    if found.status is Status.LIMIT:
        return Status.LIMIT
    moved = any(group.moved for group in measured.groups)
    return Status.MOVED if moved else Status.STAYED


class _Scaled(Derived):
    """A TensorSource whose floating tensors are multiplied by a number."""

    def __init__(self, source: TensorSource, factor: float) -> None:
        super().__init__(source)
        self._factor = factor

    def load(self, name: str) -> Tensor:
        tensor = self._source.load(name)
        if not self.info(name).floating:
            return tensor
        wide = torch.promote_types(tensor.dtype, torch.float32)
        return tensor.to(wide) * self._factor


def _with_tensors(source: TensorSource, more: Mapping[str, Tensor]) -> Gathered:
    """Return a source with some tensors in memory besides its own."""
    both = (source, InMemory(more))
    return Gathered({name: (one, name) for one in both for name in one.names()})

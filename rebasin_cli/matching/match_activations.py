"""Activation matching: units are brought next to those that do the same on data.

A similarity S of units is the weight matching of two tensors: with the identity as the reference
and S as the other, both (n, units), the objective <I, S P> is the sum of the similarities of
partners. So everything that is known of weights holds here too: groups inside groups, several
places that vote for one group, fixed parents.

What a unit does is not changed by reordering the units of other layers, so S needs one pass over
the data, and a family that no place tells of together with another is solved exactly by one
assignment (Ainsworth et al. 2023, section 3.1). S[i, j] is what `--similarity` says, of unit i of
the reference and unit j of the other, over all inputs and places.
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
from rebasin_cli.permutation import Permutation
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import Derived, InMemory, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim
from rebasin_cli.tensors.derived import Gathered


@dataclass(frozen=True)
class Alike:
    """How alike the units at one place are.

    dims: the groups whose product the units are, outer first, with their sizes. values: (n, n),
    rows of the reference, columns of the other; places compare, so each sums to 1 at the most
    along any assignment.
    """

    dims: tuple[tuple[str, int], ...]
    values: Tensor


@dataclass(frozen=True)
class Models:
    """The two models, under a spec; movable: roots of the families that may move; None: all."""

    reference: TensorSource
    other: TensorSource
    bound: BoundSpec
    movable: frozenset[str] | None = None
    labels: tuple[str, str] = ("reference", "other")


def match_activations(
    models: Models,
    alike: Sequence[Alike],
    settings: Settings,
    *,
    mix: float = 1.0,
    progress: Progress = silent,
) -> Matching:
    """Return the permutations that bring the units of `other` to those that do the same.

    mix: share of the activations; the rest are the weights, scaled so that for each family both
    could reach the same. Families that no place tells all of are matched on weights alone. The
    figures are those of the weights. Raises as `match_weights` does.
    """
    told = telling(models.bound, alike)
    seen = covered_roots(models.bound, told)
    movable = _movable(models)
    if mix < 1:
        found = _mixed(models, told, mix, settings, progress)
    else:
        found = _apart(models, told, seen, settings, progress)
    kept = {name: p for name, p in found.permutations.items() if name in models.bound.groups}
    measured = measure(*_loaded(models, settings), models.bound, kept)
    return replace(
        found,
        permutations=kept,
        status=_status(found, measured, bool(movable)),
        objective=measured.objective,
        distance=measured.distance,
        groups=measured.groups,
        method="activations",
    )


def covered_roots(bound: BoundSpec, alike: Sequence[Alike]) -> frozenset[str]:
    """Return the roots of the families of which every group that may move is told somewhere.

    A family is solved as one: heads told without the dims inside them would put these in any order.
    """
    told = {group for one in alike for group, _ in one.dims}
    untold = {g.root for g in bound.groups.values() if not g.fixed and g.name not in told}
    return frozenset(bound.groups[name].root for name in told) - untold


def telling(bound: BoundSpec, alike: Sequence[Alike]) -> list[Alike]:
    """Return the places that tell of covered families alone.

    Until none is left out: a place that goes may have been all that told of another family.
    """
    told = list(alike)
    while True:
        seen = covered_roots(bound, told)
        left = [one for one in told if {bound.groups[g].root for g, _ in one.dims} <= seen]
        if len(left) == len(told):
            return told
        told = left


def _apart(
    models: Models,
    alike: Sequence[Alike],
    seen: frozenset[str],
    settings: Settings,
    progress: Progress,
) -> Matching:
    """Match what is told on activations, then the rest on weights, with that in place."""
    movable = _movable(models)
    # The two parts are not alternated: what is told on activations does not look at weights.
    bound, reference, other = _as_tensors(models.bound, alike, dict.fromkeys(movable, 1.0))
    found = match_weights(
        InMemory(reference),
        InMemory(other),
        bound,
        settings=replace(settings, method="weights", starts=("descriptor", "identity")),
        movable=movable & seen,
        labels=models.labels,
        progress=progress,
    )
    if not movable - seen:
        return found
    rest = match_weights(
        models.reference,
        Permuted(models.other, models.bound.tensors, found.permutations),
        models.bound,
        settings=settings,
        movable=movable - seen,
        labels=models.labels,
        progress=progress,
    )
    both = {name: _chosen(name, found, rest, models.bound, seen) for name in models.bound.groups}
    return replace(found, permutations={n: p for n, p in both.items() if p is not None})


def _chosen(
    name: str, found: Matching, rest: Matching, bound: BoundSpec, seen: frozenset[str]
) -> Permutation | None:
    source = found if bound.groups[name].root in seen else rest
    return source.permutations.get(name)


def _mixed(
    models: Models, alike: Sequence[Alike], mix: float, settings: Settings, progress: Progress
) -> Matching:
    """Match on (1 - mix) <A, P B> + mix sum over places of w <I, S P>, as one objective.

    Similarities end at 1 and inner products at |A| |B|; w (see `_share`) makes both end alike.
    Weights of the reference are scaled and not those of both, or mix would count twice.
    """
    a, b = _loaded(models, settings)
    every = families(models.bound)
    pair = Pair(a, b, models.bound.groups)
    worth = {root: mix * _share(pair, family, alike) for root, family in every.items()}
    bound, reference, other = _as_tensors(models.bound, alike, worth)
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


def _share(pair: Pair, family: GroupFamily, alike: Sequence[Alike]) -> float:
    """Return what one place is worth, so that all of a family's are worth what its weights are."""
    places = sum(any(group == family.root for group, _ in one.dims) for one in alike)
    return pair.scale(family) / places if places else 0.0


def _as_tensors(
    bound: BoundSpec, alike: Sequence[Alike], worth: Mapping[str, float]
) -> tuple[BoundSpec, dict[str, Tensor], dict[str, Tensor]]:
    """Return similarities as a spec with two models: the identity, and the similarities.

    worth: by root of the family; of a place that tells of several families, that of the first.
    """
    tensors, reference, other = [], {}, {}
    for number, one in enumerate(alike):
        name, units = f"activations {number}", prod(size for _, size in one.dims)
        steps = [prod(size for _, size in one.dims[k + 1 :]) for k in range(len(one.dims))]
        dims = [Dim(size, step, group) for (group, size), step in zip(one.dims, steps, strict=True)]
        block = Block(0, (Dim(units, units), *dims))
        tensors.append(BoundTensor((name,), False, (units, units), (block,), votes=True))
        root = bound.groups[one.dims[0][0]].root
        # Rows are one fixed dimension, columns move: <I, S[:, p]> = sum over i of S[i, p[i]].
        reference[name] = torch.eye(units, dtype=one.values.dtype)
        share = worth.get(root, 0.0)
        other[name] = one.values if share == 1 else one.values * share  # they may be large
    empty = replace(bound, tensors=tuple(tensors), untouched=(), buffers=frozenset())
    return empty, reference, other


def _movable(models: Models) -> frozenset[str]:
    """Return the roots of the families that may move."""
    free = frozenset(g.root for g in models.bound.groups.values() if not g.fixed)
    return free if models.movable is None else free & models.movable


def _loaded(models: Models, settings: Settings) -> tuple[DeviceTensors, DeviceTensors]:
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

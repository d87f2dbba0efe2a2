"""What the weights alone say about two models: how alike their units are, and what to expect.

Whether two models can be averaged is a matter of data. What can be told without any: whether
one is the other in another order, whether they lie together as they are, and whether matching
brought them nearer than it would bring weights that have nothing to do with one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Literal

from torch import Tensor

from rebasin_cli.matching.diagnostics.margins import measure_margins
from rebasin_cli.matching.diagnostics.unit_figures import ByUnit, UnitSums, compare_units
from rebasin_cli.matching.problem.measure import Measured, measure
from rebasin_cli.matching.problem.result import (
    Change,
    Margin,
    Status,
    UnitComparison,
    UnitFigures,
)
from rebasin_cli.matching.problem.shared_work import INLINE
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import TensorSource

# Between chance (0) and equality (1), in alignments of MLP, VGG, ResNet, ViT and GPT: a model and
# its permuted copy with noise as large as the weights come to 0.58 and more, with twice that to
# 0.36 and less. Random weights stay below 0. Of networks trained apart the MLP comes to 0.14, and
# its barrier vanishes; the others to 0.01 at most, and keep theirs.
NEAR = 0.5
CLEAR = 0.05
LITTLE = 0.1  # of the gap that is left: relatives that are matched no nearer are in place


Detail = Literal["units", "margins"]
"""How far models are compared: unit by unit, and how sure each unit's partner is as well."""


class Relation(Enum):
    """What two models are to each other; the value is a sentence of advice.

    The last two are of models that were not matched.
    """

    EQUAL = "the two models are equal: there is nothing to align"
    SAME = "the same model, its units permuted: aligned, the two are equal"
    ONE_BASIN = "already in one basin: they can be averaged as they are"
    PERMUTED = (
        "the same model or a close relative of it, its units permuted: "
        "aligned, the two share a basin"
    )
    INDEPENDENT = (
        "independent runs: aligned they are nearer than unrelated weights would be, but expect "
        "some barrier (rebasin lerp --exec measures it)"
    )
    UNRELATED = (
        "independent runs: matching brings them hardly nearer than it would unrelated weights; "
        "expect a barrier"
    )
    FIXED = "nothing could be aligned"
    REORDERED = "they look like the same model, its units permuted: rebasin align brings them back"
    APART = "not in one basin as they are: rebasin align may bring them nearer"


def compare_models(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    permutations: Permutations,
    detail: Detail | None,
    *,
    cache: SimilarityCache | None = None,
    progress: Progress = silent,
) -> tuple[Measured, UnitComparison | None]:
    """Return the figures of two models, in one pass over both.

    cache: of a search that ended at these permutations; what it knows is not made again.
    """
    pool = cache.pair.pool if cache else INLINE
    sources = reference, other
    if detail is None:
        return measure(*sources, bound, permutations, pool=pool, progress=progress), None
    measured, found = compare_units(*sources, bound, permutations, pool=pool, progress=progress)
    margins: Mapping[str, Margin] = {}
    if detail == "margins":
        margins = measure_margins(
            *sources, bound, permutations, found.units, cache=cache, progress=progress
        )
    return measured, _comparison(found, bound, margins)


def aligned_relation(status: Status, found: UnitComparison) -> Relation:
    """Return what two models are to each other, now that one was matched to the other."""
    known = _BY_STATUS.get(status)
    if known:
        return known
    near = found.nearness
    if near.before >= NEAR and near.after - near.before <= LITTLE * (1 - near.before):
        return Relation.ONE_BASIN
    if near.after >= NEAR:
        return Relation.PERMUTED
    return Relation.INDEPENDENT if near.after > CLEAR else Relation.UNRELATED


def present_relation(found: UnitComparison) -> Relation:
    """Return what two models are to each other as they are, without a matching."""
    near = found.nearness.before
    if near >= NEAR:
        return Relation.ONE_BASIN
    if found.alike:
        return Relation.REORDERED
    return Relation.INDEPENDENT if near > CLEAR else Relation.APART


_BY_STATUS: Mapping[Status, Relation] = {
    Status.EQUAL: Relation.EQUAL,
    Status.EXACT: Relation.SAME,
    Status.NOTHING: Relation.FIXED,
    Status.UNTOLD: Relation.FIXED,
}


def _comparison(found: ByUnit, bound: BoundSpec, margins: Mapping[str, Margin]) -> UnitComparison:
    sums = found.units
    moving = {name: units for name, units in sums.items() if not bound.groups[name].fixed}
    return UnitComparison(
        groups={
            name: replace(_figures([sums[name]] if name in sums else []), margin=margins.get(name))
            for name in bound.groups
        },
        whole=_figures(list((moving or sums).values())),
        cosine=found.cosine,
        chance=found.chance,
        alike=found.alike,
    )


def _figures(groups: Sequence[UnitSums]) -> UnitFigures:
    """Return the means over the units of some groups, each group weighted by its elements."""
    cosines = [(units.cosines(), units.elements) for units in groups]
    alive = [(both, weight) for both, weight in cosines if all(map(len, both))]
    if not alive:
        return UnitFigures(None, None)
    means = [_means([(both[when], weight) for both, weight in alive]) for when in (0, 1)]
    return UnitFigures(Change(means[0][0], means[1][0]), Change(means[0][1], means[1][1]))


def _means(cosines: Sequence[tuple[Tensor, int]]) -> tuple[float, float]:
    """Return the mean cosine, and the mean norm of the average of two unit vectors."""
    total = sum(weight for _, weight in cosines)
    cosine = sum(weight * float(c.mean()) for c, weight in cosines)
    collapse = sum(weight * float(((1 + c) / 2).sqrt().mean()) for c, weight in cosines)
    return cosine / total, collapse / total

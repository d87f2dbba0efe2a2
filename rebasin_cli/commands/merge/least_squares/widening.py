"""Which groups become wider, and which of their units stand apart: proved, then measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rebasin_cli.commands.merge.least_squares.growth_proof import CHANGED, GrowthProof
from rebasin_cli.commands.merge.least_squares.plan import SolvedMeanPlan, no_growth
from rebasin_cli.commands.merge.least_squares.wider_axis import WiderAxis, wider_units
from rebasin_cli.commands.merge.least_squares.wider_mean import TensorAxes, wider_tensors
from rebasin_cli.commands.merge.linear_maps.readers import seen_at, stacked_moments
from rebasin_cli.commands.merge.linear_maps.zipit import correlations
from rebasin_cli.network.built import batches_of
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class Wider:
    """What becomes wider. groups: their axes; tensors: those of the tensors they stand on.

    narrow: groups that stay as they are, and why. difference: see `Solved`.
    """

    groups: Mapping[str, WiderAxis]
    tensors: Mapping[str, TensorAxes]
    narrow: Mapping[str, str]
    difference: float | None


def widening(
    plan: SolvedMeanPlan, first: TensorSource, models: Sequence[nn.Module], progress: Progress
) -> Wider:
    """Return what becomes wider: proved on the first model, chosen by what units do on the data.

    first, models: aligned. Raises UsageError if nothing can.
    """
    growth, choice = plan.growth, plan.merge.choice
    if choice is None or not growth.apart:
        return Wider({}, {}, growth.narrow, None)
    progress("proving that layers may be wider", 0, 0)
    proof = GrowthProof(first, plan.code.network, choice, growth.sides, plan.merge.machine)
    kept, difference = proof.kept(growth.apart)
    narrow = {**growth.narrow, **{g: CHANGED for g in growth.apart if g not in kept}}
    if not kept:
        raise no_growth(narrow)
    groups = _groups(plan, kept, models, progress)
    tensors = wider_tensors(choice.bound.tensors, groups, growth.sides)
    return Wider(groups, tensors, narrow, difference)


def _groups(
    plan: SolvedMeanPlan, kept: Sequence[str], models: Sequence[nn.Module], progress: Progress
) -> dict[str, WiderAxis]:
    """Return the axes of groups; units that correlate the least with their partners stay apart."""
    machine, growth = plan.merge.machine, plan.growth
    readers = seen_at(plan.code.network, {group: growth.readers[group] for group in kept})
    moments = stacked_moments(models, readers, batches_of(plan.code, machine), progress=progress)
    found = {}
    for group, seen in moments.items():
        size = len(seen.covariance) // 2
        alike = correlations(seen.covariance.cpu()).diagonal(size)
        apart = alike.sort(stable=True).indices[: growth.apart[group]]
        found[group] = wider_units(size, apart)
    return found

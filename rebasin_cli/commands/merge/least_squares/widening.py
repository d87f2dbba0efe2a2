"""Which groups become wider, and which of their units stand apart: proved, then measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rebasin_cli.commands.merge.least_squares.plan import SolvedMeanPlan, no_growth
from rebasin_cli.commands.merge.least_squares.wider_axis import WiderAxis, wider_units
from rebasin_cli.commands.merge.least_squares.wider_mean import TensorAxes, WiderMean, wider_tensors
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides
from rebasin_cli.commands.merge.linear_maps.readers import seen_at, stacked_moments
from rebasin_cli.commands.merge.linear_maps.zipit import correlations
from rebasin_cli.commands.merge.preserve_first.cut import widen_example
from rebasin_cli.commands.merge.preserve_first.cut_proof import outputs_difference, outputs_of
from rebasin_cli.models.subject import Example
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.network import Network
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import SAME_FUNCTION

CHANGED = "the model computes something else when its units stand twice"


@dataclass(frozen=True)
class Wider:
    """The groups and tensors that become wider.

    groups: the wider axis of each group. tensors: the wider axes of each tensor. narrow: groups
    that stay as they are, and why. difference: see `Solved`.
    """

    groups: Mapping[str, WiderAxis]
    tensors: Mapping[str, TensorAxes]
    narrow: Mapping[str, str]
    difference: float | None


def plan_wider_axes(
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
    """Return the wider axes of groups; units that correlate least with partners are not merged."""
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


@dataclass(frozen=True)
class GrowthProof:
    """The proof that a model computes the same if some of its units occur twice.

    Both parents are taken to be this model: a wider mean of them then has to compute what it does,
    whichever units are merged. A norm or a softmax over all units, or a product of two, would not.
    The model is run with its tensors in float64, on one example.
    """

    source: TensorSource
    network: Network
    choice: Choice
    sides: Sides
    machine: Machine

    def kept(self, groups: Iterable[str]) -> tuple[tuple[str, ...], float]:
        """Return the groups that may become wider together, and how far outputs then move."""
        groups = tuple(groups)
        difference = self.difference(groups)
        if difference > SAME_FUNCTION:
            groups = tuple(g for g in groups if self.difference([g]) <= SAME_FUNCTION)
            difference = self.difference(groups)
        return (groups, difference) if groups and difference <= SAME_FUNCTION else ((), difference)

    def difference(self, groups: Iterable[str]) -> float:
        """Return how far outputs move, in units of their largest value, as half of all units of
        some groups stand twice.
        """
        axes = {group: self._half(group) for group in groups}
        tensors = wider_tensors(self.choice.bound.tensors, axes, self.sides)
        wider = WiderMean(self.source, (self.source, self.source), (0.5, 0.5), tensors)
        shapes = {name: wider.info(name).shape for name in tensors}
        example = self._example()
        before = self._outputs(self.network, self.source, example)
        return outputs_difference(
            before, self._outputs(resized_network(self.network, shapes), wider, example)
        )

    def _half(self, group: str) -> WiderAxis:
        size = self.choice.bound.groups[group].size
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        return wider_units(size, order[: max(1, size // 2)])

    def _outputs(self, network: Network, source: TensorSource, example: Example) -> list[Tensor]:
        model = build_network(network, source, replace(self.machine, device="cpu"))
        return outputs_of(model.double(), example)

    def _example(self) -> Example:
        with users_code("the model"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            subject = self.network.subject
            return widen_example(subject.examples(subject.build())[0])

"""Whether a model computes what it did when some of its units stand twice.

Both parents are the same model, so that a wider mean of them has to compute what it does, whichever
units are merged. A norm over all units, a softmax over them, a product of two of them would differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.commands.merge.least_squares.wider_axis import WiderAxis, wider_units
from rebasin_cli.commands.merge.least_squares.wider_mean import WiderMean, wider_tensors
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides
from rebasin_cli.commands.merge.preserve_first.cut import widen_example
from rebasin_cli.commands.merge.preserve_first.cut_proof import apart, outputs_of
from rebasin_cli.models.subject import Example
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import Network
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import SAME_FUNCTION

CHANGED = "the model computes something else when its units stand twice"


@dataclass(frozen=True)
class GrowthProof:
    """What is looked at: a model with its tensors, in float64, on one example."""

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
        return apart(before, self._outputs(resized_network(self.network, shapes), wider, example))

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

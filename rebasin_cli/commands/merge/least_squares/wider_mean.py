"""The mean of two models on wider axes: what least squares starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.commands.merge.least_squares.wider_axis import WiderAxis, axis_with
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides, side_of
from rebasin_cli.spec.binding.axis_sides import READ
from rebasin_cli.tensors import Derived, TensorInfo, TensorSource
from rebasin_cli.tensors.blocks import BoundTensor


@dataclass(frozen=True)
class TensorAxes:
    """The axes of one tensor that become wider, by their number. read: those that read units."""

    axes: Mapping[int, WiderAxis]
    read: frozenset[int]

    @property
    def into(self) -> WiderAxis | None:
        return next((a for number, a in self.axes.items() if number in self.read), None)

    @property
    def out(self) -> WiderAxis | None:
        return next((a for number, a in self.axes.items() if number not in self.read), None)

    def shape(self, before: Sequence[int]) -> tuple[int, ...]:
        return tuple(len(self.axes[k]) if k in self.axes else n for k, n in enumerate(before))

    def part(self, values: Tensor, model: int, share: float) -> Tensor:
        """Return what a model's tensor adds to the wider one.

        A unit that is merged is the weighted mean of its models' ones; one that stands alone is
        its model's, and reads of that model alone.
        """
        if self.out is None:
            values = share * values
        for number, axis in self.axes.items():
            factors = axis.read(model) if number in self.read else axis.written(model, share)
            beside = [1] * values.dim()
            beside[number] = -1
            values = values.index_select(number, axis.source) * factors.view(beside)
        return values


def wider_tensors(
    tensors: Sequence[BoundTensor], grown: Mapping[str, WiderAxis], sides: Sides
) -> dict[str, TensorAxes]:
    """Return the tensors that groups stand on which become wider, by name."""
    found = {}
    for tensor in (tensor for tensor in tensors if tensor.groups & grown.keys()):
        axes, read = {}, set()
        for dim in (d for block in tensor.blocks for d in block.dims if d.group in grown):
            number, axis = axis_with(tensor, dim, grown[str(dim.group)])
            axes[number] = axis
            if side_of(tensor, dim, sides) == READ:
                read.add(number)
        found[tensor.members[0]] = TensorAxes(axes, frozenset(read))
    return found


class WiderMean(Derived):
    """A TensorSource that is a mean of models, with more units in some tensors.

    mean: their mean. shares: of the models; they add up to 1, and none is 0.
    """

    def __init__(
        self,
        mean: TensorSource,
        models: Sequence[TensorSource],
        shares: Sequence[float],
        tensors: Mapping[str, TensorAxes],
    ) -> None:
        super().__init__(mean)
        self._models, self._shares, self._tensors = models, shares, tensors

    def info(self, name: str) -> TensorInfo:
        info = self._source.info(name)
        own = self._tensors.get(name)
        return replace(info, shape=own.shape(info.shape)) if own else info

    def load(self, name: str) -> Tensor:
        if name not in self._tensors:
            return self._source.load(name)
        result = torch.zeros(self.info(name).shape, dtype=torch.float64)
        for number, (model, share) in enumerate(zip(self._models, self._shares, strict=True)):
            result += self._tensors[name].part(model.load(name).double(), number, share)
        return result.to(torch.promote_types(torch.float32, self.info(name).dtype))

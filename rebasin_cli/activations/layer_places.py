"""Where in a checkpoint the units of layers stand, so that their statistics follow them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from rebasin_cli.network.layers import Layer
from rebasin_cli.tensors.blocks import Window


@dataclass(frozen=True)
class UnitPlace:
    """A tensor of a checkpoint whose elements each belong to one unit of a layer.

    The unit of the element at some indices is `first` and the sum of indices times `steps`.
    """

    tensor: str
    first: int
    steps: tuple[int, ...]

    def units(self, shape: Sequence[int]) -> Tensor:
        """Return the unit of every element: int64, of the shape of the tensor."""
        found = torch.tensor(self.first)
        for axis, (size, step) in enumerate(zip(shape, self.steps, strict=True)):
            if step:
                found = found + (torch.arange(size) * step).view(-1, *[1] * (len(shape) - axis - 1))
        return found.expand(*shape)


UnitPlaces = Mapping[str, tuple[UnitPlace, ...]]  # by the name of the layer


def unit_places(
    model: nn.Module, layers: Iterable[str], windows: Mapping[str, Window]
) -> dict[str, tuple[UnitPlace, ...]]:
    """Return where the units of some layers of a model stand.

    windows: where the tensors of the checkpoint lie in the model. A layer is left out whose units
    are no steps along axes, as in a transposed convolution with groups and without a bias.
    """
    modules = dict(model.named_modules())
    found = {name: _places(Layer(name, modules[name]), windows) for name in layers}
    return {name: places for name, places in found.items() if places}


def _places(layer: Layer, windows: Mapping[str, Window]) -> tuple[UnitPlace, ...]:
    own = _own_units(layer)
    if own is None:
        return ()
    name, units = own
    full = f"{layer.name}.{name}" if layer.name else name
    found = [
        (stored, units.as_strided(window.shape, window.strides, window.offset))
        for stored, window in windows.items()
        if window.source == full
    ]
    places = [place for stored, here in found for place in _in_steps(stored, here)]
    told = torch.zeros(int(units.max()) + 1, dtype=torch.bool)
    for _, here in found:
        told[here] = True
    return tuple(places) if len(places) == len(found) and bool(told.all()) else ()


def _own_units(layer: Layer) -> tuple[str, Tensor] | None:
    """Return a tensor of a layer, and the unit of each of its elements; contiguous."""
    module = layer.module
    name = "running_mean" if layer.norm else "bias"
    vector = getattr(module, name)
    if isinstance(vector, Tensor):
        return name, torch.arange(len(vector))
    assert isinstance(module.weight, Tensor), "it is what makes the layer one"
    shape, turned = module.weight.shape, isinstance(module, _ConvTransposeNd)
    if turned and module.groups != 1:
        return None
    axis = 1 if turned else 0
    sizes = [-1 if k == axis else 1 for k in range(len(shape))]
    return "weight", torch.arange(shape[axis]).view(sizes).expand(shape).contiguous()


def _in_steps(stored: str, units: Tensor) -> Iterator[UnitPlace]:
    """Yield the place that has these units, if they are steps along axes."""
    start = units[(0,) * units.dim()]
    steps = tuple(
        int(units[tuple(int(k == axis) for k in range(units.dim()))] - start) if size > 1 else 0
        for axis, size in enumerate(units.shape)
    )
    place = UnitPlace(stored, int(start), steps)
    if torch.equal(place.units(units.shape), units):
        yield place

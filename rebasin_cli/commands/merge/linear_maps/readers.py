"""The units of groups, seen at the layers that read them, of several models at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.activations.moments import CrossMoments, cross_moments
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides, side_of
from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.layers import Layer, with_hooks
from rebasin_cli.network.network import Network
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.axis_sides import READ, axis_of
from rebasin_cli.tensors.blocks import Block, BoundTensor


@dataclass(frozen=True)
class Reader:
    """A layer whose input holds the units of a group.

    tensor: its weight, by the checkpoint's name. positions: (n, places), where on the axis of its
    input each unit stands; a channel that was flattened with its pixels stands in several.
    """

    tensor: str
    positions: Tensor


def readers_of(
    groups: Sequence[str], tensors: Sequence[BoundTensor], sides: Sides
) -> dict[str, Reader]:
    """Return the last layer that reads each group, in the order of the checkpoint.

    Of a residual stream it sees all that was added before.
    """
    found: dict[str, Reader] = {}
    for tensor in tensors:
        for block in tensor.blocks:
            for position, dim in enumerate(block.dims):
                if dim.group in groups and side_of(tensor, dim, sides) == READ:
                    places = _positions(tensor, block, position)
                    found[str(dim.group)] = Reader(tensor.members[0], places)
    return found


def _positions(tensor: BoundTensor, block: Block, position: int) -> Tensor:
    """Return where on its axis each index of a dimension stands, (size, places)."""
    axis = axis_of(tensor, block.dims[position])
    assert axis is not None, "a dimension with a side has an axis"
    ones = [1] * len(tensor.shape)
    ones[axis] = -1
    index = torch.arange(tensor.shape[axis]).reshape(ones).expand(tensor.shape).contiguous()
    flat = block.view(index).movedim(position, 0).flatten(1)
    # which columns repeat is the same in every row
    first = {place: column for column, place in reversed(list(enumerate(flat[0].tolist())))}
    return flat[:, [first[place] for place in sorted(first)]]


def seen_at(network: Network, readers: Mapping[str, Reader]) -> dict[str, tuple[str, Tensor]]:
    """Return for each group the name of the layer that reads it, and the places of its units."""
    return {
        group: (network.windows[reader.tensor].source.rpartition(".")[0], reader.positions)
        for group, reader in readers.items()
    }


def stacked_moments(
    models: Sequence[nn.Module],
    readers: Mapping[str, tuple[str, Tensor]],
    batches: Batches,
    *,
    progress: Progress = silent,
) -> dict[str, CrossMoments]:
    """Return the products of all units of all models with one another, group by group.

    readers: group -> the name of a layer in the models, the positions of the group's units on its
    input's axis. The units of the models stand one after another. Raises UserCodeError if a model
    raises, does not call a layer, or makes numbers that are not finite.
    """
    sums: dict[str, CrossMoments] = {}
    with torch.no_grad():
        for count, batch in enumerate(batches):
            progress("running the models", count, batches.limit or 0)
            seen = [_seen(model, readers, batch) for model in models]
            for group in readers:
                stacked = torch.cat([one[group] for one in seen], 1)
                found = cross_moments(stacked, stacked)
                sums[group] = sums[group].joined(found) if group in sums else found
    for group, found in sums.items():
        if not bool(torch.isfinite(found.products).all()):
            raise UserCodeError(f"activations of the units of {group!r} are NaN or infinite")
    return sums


def _seen(
    model: nn.Module, readers: Mapping[str, tuple[str, Tensor]], batch: Batch
) -> dict[str, Tensor]:
    """Return the samples (count, n) of each group from one batch."""
    found: dict[str, list[Tensor]] = {group: [] for group in readers}

    def see(group: str, layer: Layer, inputs: tuple[Any, ...]) -> None:
        samples = layer.samples(inputs[0])
        places = readers[group][1].to(samples.device)
        units = samples[:, places.flatten()].reshape(len(samples), *places.shape)
        found[group].append(units.movedim(1, -1).flatten(0, -2))

    with _inputs_seen(model, readers, see):
        call_model(model, batch)
    idle = [group for group, samples in found.items() if not samples]
    if idle:
        raise UserCodeError(f"{readers[idle[0]][0]} reads the units of {idle[0]!r}, but is not run")
    return {group: torch.cat(samples) for group, samples in found.items()}


@contextlib.contextmanager
def _inputs_seen(
    model: nn.Module,
    readers: Mapping[str, tuple[str, Tensor]],
    see: Callable[[str, Layer, tuple[Any, ...]], None],
) -> Iterator[None]:
    def hook(group: str, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: see(group, layer, inputs)

    handles = []
    for group, (name, _) in readers.items():
        layer = Layer(name, model.get_submodule(name))
        handles.append(layer.module.register_forward_pre_hook(hook(group, layer)))
    with with_hooks(handles):
        yield

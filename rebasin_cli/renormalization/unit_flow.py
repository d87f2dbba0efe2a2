"""How the layers of a bound spec follow one another, by the units that they write and read."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass

from rebasin_cli.errors import UsageError
from rebasin_cli.spec.binding.axis_sides import (
    MAY_READ,
    MAY_WRITE,
    READ,
    WRITE,
    AxisSides,
    Side,
    axis_of,
    axis_sides,
)
from rebasin_cli.tensors.blocks import Block, BoundTensor

_READS, _WRITES = frozenset({READ, MAY_READ}), frozenset({WRITE, MAY_WRITE})
_DOUBTFUL = frozenset({MAY_READ, MAY_WRITE})
_SHOWN = 5  # problems in a message

UnitProduct = frozenset[str]


"""Groups that count units together: `heads * dims` are not the units of either group alone."""


@dataclass(frozen=True)
class LayerUnits:
    """The units that a layer reads and writes, of each block of its weight.

    doubtful: it may be depthwise, so that its units stand both before it and behind it.
    """

    reads: tuple[UnitProduct, ...]
    writes: tuple[UnitProduct, ...]
    doubtful: bool


def layer_units(layer: str, weight: BoundTensor, transposed: Container[str]) -> LayerUnits:
    """Return what a layer does with units. transposed: names of weights stored as (in, out).

    Raises UsageError for a group on an axis of which that is not known.
    """
    sides = axis_sides(weight, transposed)
    blocks = [_said(layer, weight, block, sides) for block in weight.blocks]
    return LayerUnits(
        tuple(filter(None, (_together(said, _READS) for said in blocks))),
        tuple(filter(None, (_together(said, _WRITES) for said in blocks))),
        any(not _DOUBTFUL.isdisjoint(side) for said in blocks for _, side in said),
    )


def _said(
    layer: str, weight: BoundTensor, block: Block, sides: Sequence[AxisSides]
) -> list[tuple[str, AxisSides]]:
    """Return the groups of a block, and what the axis of each does."""
    found = []
    for dim in (dim for dim in block.dims if dim.group is not None):
        axis = axis_of(weight, dim)
        if axis is None or not sides[axis]:
            raise unclear_flow([f"what {layer} does with the units of {dim.group} is not clear"])
        found.append((str(dim.group), sides[axis]))
    return found


def _together(said: Sequence[tuple[str, AxisSides]], wanted: Set[Side]) -> UnitProduct:
    """Return the groups on axes of one side; those that count matrices are of both sides."""
    if not any(len(sides) == 1 and sides[0] in wanted for _, sides in said):
        return frozenset()
    return frozenset(group for group, sides in said if not wanted.isdisjoint(sides))


def paths_of(layers: Mapping[str, LayerUnits]) -> dict[str, tuple[str, ...]]:
    """Return the layers up to each layer, itself included, from the one that reads the input.

    Shortest paths over a graph of layers and units, repeated until none gets shorter: of
    branches that are added, the one with the fewest layers carries the largest features.
    Raises UsageError where it is not clear what a layer reads.
    """
    _refuse_unclear(layers)
    units: dict[UnitProduct, tuple[str, ...]] = {}
    found: dict[str, tuple[str, ...]] = {}
    before: dict[str, tuple[str, ...]] = {"": ()}
    while found != before:
        before = dict(found)
        for name, layer in layers.items():
            sources = [key for key in units if any(_same(key, read) for read in layer.reads)]
            known = [units[key] for key in sorted(sources, key=sorted)]
            if known or not layer.reads:
                found[name] = (*min(known, key=len, default=()), name)
        for name, path in found.items():
            for key in layers[name].writes:
                units[key] = min(units.get(key, path), path, key=len)
    lost = [name for name in layers if name not in found]
    if lost:
        raise unclear_flow([f"nothing leads from the input to {name}" for name in lost])
    return found


def _same(one: UnitProduct, other: UnitProduct) -> bool:
    """Return whether units can be the same: a layer may leave out groups that it treats alike.

    A grouped convolution reads the units of a group of channels, not that group's number.
    """
    return one <= other or other <= one


def _refuse_unclear(layers: Mapping[str, LayerUnits]) -> None:
    """Raise UsageError unless one layer reads the input and no other may be depthwise.

    What is behind a depthwise convolution is deeper than what is before it, and both are the same
    units: who reads them may stand on either side. A layer that may be depthwise is taken for the
    first if no other is, and for the last if no other reads its units.
    """
    first = [name for name, layer in layers.items() if not layer.reads]
    sure = [name for name in first if not layers[name].doubtful]
    taken = next((names for names in (sure, first) if len(names) == 1), [])
    wrong = [name for name in first if name not in taken]
    wrong += [name for name, layer in layers.items() if layer.doubtful and _between(name, layers)]
    if wrong or not first:
        reasons = [_why(name, layers[name]) for name in wrong]
        raise unclear_flow(reasons or ["no layer reads the input"])


def _between(name: str, layers: Mapping[str, LayerUnits]) -> bool:
    """Return whether another layer reads what a layer reads, perhaps behind it."""
    return any(
        _same(read, mine)
        for other, layer in layers.items()
        for read in layer.reads
        for mine in layers[name].reads
        if other != name
    )


def _why(name: str, layer: LayerUnits) -> str:
    if layer.doubtful:
        return f"{name} may be a depthwise convolution: what reads its units may stand before it"
    return f"{name} reads units that the spec holds fixed"


def unclear_flow(reasons: Sequence[str]) -> UsageError:
    return UsageError(
        "calibrate cannot tell from the spec how deep each bias is, or is not valid for it",
        detail="\n".join(reasons[:_SHOWN]),
        hint="--model TARGET says what is computed; `rescale` needs data as well",
    )

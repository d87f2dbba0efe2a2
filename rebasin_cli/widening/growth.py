"""Which groups of a spec can have more units, and what becomes of the tensors.

New units are zero wherever they stand: nothing comes in, nothing goes out. What else looks at how
many units there are has to be made good: a norm over all of them (see `stream_growth`), or the
root of the size of heads, by which scores are divided. What a spec does not tell, a run does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from rebasin_cli.errors import Problem, UsageError
from rebasin_cli.spec.binding.axis_sides import AxisSides, Side, axis_of, axis_sides
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.language.model import INTERLEAVED, ROTARY
from rebasin_cli.tensors.blocks import BoundTensor, Dim
from rebasin_cli.widening.grown_tensors import GrownTensor, NewSizes, grown_axes
from rebasin_cli.widening.stream_growth import grown_stream, stream_norms

_MEAN = "running_mean"  # beside it, gains and biases are of units one by one
_SPREAD = "running_var"  # of a unit that was never seen it is 1, as in a new BatchNorm
_READS = (Side.READ, Side.MAY_READ)

MOST = 1 << 24  # units of a group: where each of them comes from is held in memory


@dataclass(frozen=True)
class Growth:
    """Which groups grow, and what becomes of the tensors, by their names.

    sizes: before and after, by group. doubts: why only a model tells of some groups whether their
    new units do nothing.
    """

    sizes: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, GrownTensor]
    doubts: Mapping[str, str]


def plan_growth(
    bound: BoundSpec, sizes: Mapping[str, int], movable: Collection[str], names: Collection[str]
) -> Growth:
    """Return what becomes of the tensors as groups get new sizes.

    sizes: of some groups; those that stay need not be named. movable: roots of the families whose
    tensors all take part. names: of all tensors. Raises UsageError for every group that cannot get
    its size, with the reason.
    """
    wanted = {g: n for g, n in sizes.items() if n != bound.groups[g].size}
    _check(bound, wanted, movable)
    streams = {g for g in wanted if stream_norms(bound, g)}
    unread = {g for g in wanted if g not in streams and not _is_read(bound, g)}
    # a product of two such units grows by the root of their number
    factors = {g: (wanted[g] / bound.groups[g].size) ** 0.25 for g in unread}
    tensors = {}
    for tensor in (t for t in bound.tensors if t.groups & wanted.keys()):
        grown = _grown(bound, tensor, NewSizes(wanted, factors), streams)
        tensors.update(dict.fromkeys(tensor.members, grown))
    before = {g: (bound.groups[g].size, n) for g, n in wanted.items()}
    return Growth(before, tensors, dict(_doubts(bound, wanted, streams, unread, names)))


def _grown(
    bound: BoundSpec, tensor: BoundTensor, sizes: NewSizes, streams: Collection[str]
) -> GrownTensor:
    own = [group for group in tensor.groups if group in streams]
    fill = float(tensor.members[0].endswith(_SPREAD))
    if not own:
        return GrownTensor(grown_axes(tensor, sizes), fill)
    return grown_stream(bound, tensor, own, sizes)


def _check(bound: BoundSpec, wanted: Mapping[str, int], movable: Collection[str]) -> None:
    problems = [
        Problem(f"group {name!r} cannot have {size:,} units instead of {group.size:,}", detail=why)
        for name, size in wanted.items()
        for group in [bound.groups[name]]
        for why in [_obstacle(bound, group, size, movable)]
        if why
    ]
    if problems:
        raise UsageError(*problems)


def _obstacle(bound: BoundSpec, group: BoundGroup, size: int, movable: Collection[str]) -> str:
    """Return why a group cannot have so many units; empty if it can."""
    if size < group.size:
        return "units are added, and none is taken away"
    if size > MOST:
        return f"more than {MOST:,} are not made"
    if group.maps in (ROTARY, INTERLEAVED):
        return "rotary positions turn its pairs by frequencies that follow from how many there are"
    if group.fixed:
        return "the spec says that its units are fixed: what one of them is follows from its place"
    if group.root not in movable:
        return "a tensor that holds its units is left out, or lacks in a model"
    if group.size == 1:
        return "it has one unit, and shapes do not tell where a second one would stand"
    if any(t.stacked and d.group == group.name for t in bound.tensors for d in _first_dims(t)):
        return "each of its units has tensors of its own, and new ones would need new names"
    return ""


def _first_dims(tensor: BoundTensor) -> Iterator[Dim]:
    return (dim for block in tensor.blocks for dim in block.dims if axis_of(tensor, dim) == 0)


def _is_read(bound: BoundSpec, group: str) -> bool:
    """Return whether some tensor sums over the units of a group."""
    return any(side in _READS for sides in _sides(bound, group) for side in sides)


def _counts_matrices(bound: BoundSpec, group: str) -> bool:
    """Return whether some tensor has a matrix for each unit of a group, as for an expert."""
    return any({Side.READ, Side.WRITE} <= set(sides) for sides in _sides(bound, group))


def _sides(bound: BoundSpec, group: str) -> Iterator[AxisSides]:
    """Yield what each axis that a group stands on does with its units."""
    for tensor in (t for t in bound.tensors if group in t.groups):
        sides = axis_sides(tensor, bound.transposed)
        dims = (dim for block in tensor.blocks for dim in block.dims if dim.group == group)
        yield from (
            sides[axis] for axis in {axis_of(tensor, dim) for dim in dims} if axis is not None
        )


def _doubts(
    bound: BoundSpec,
    wanted: Collection[str],
    streams: Collection[str],
    unread: Collection[str],
    names: Collection[str],
) -> Iterator[tuple[str, str]]:
    known = {_owner(n) for t in bound.tensors if not _is_vector(t) for n in t.members}
    known |= {_owner(n) for n in names if n.endswith(_MEAN)}
    for group in wanted:
        norms = [
            tensor.members[0]
            for tensor in bound.tensors
            if group in tensor.groups
            and _is_vector(tensor)
            and _owner(tensor.members[0]) not in known
        ]
        if group in streams:
            yield group, "its norms count its units"
        elif group in unread:
            yield group, "no tensor reads its units: are they those of queries and keys?"
        elif _counts_matrices(bound, group):
            yield group, "each of its units has matrices of its own: are they experts?"
        elif norms:
            yield group, f"{norms[0]} may be of a norm that takes its units together"


def _is_vector(tensor: BoundTensor) -> bool:
    """Return whether a tensor has one number for each unit, as biases and gains have."""
    return prod(tensor.shape) == max(tensor.shape, default=1)


def _owner(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition(".")[0]

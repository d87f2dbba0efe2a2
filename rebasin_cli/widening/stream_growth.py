"""A residual stream with more units, where all that reads it goes through a norm first.

With c = sqrt(m / n), all that writes to the stream of n units is multiplied by c and followed by
zeros: the mean square of the m units is that of the n before, and so is what a norm divides by, its
epsilon included. The norm then gives c times what it gave; its gain is divided by c, and what reads
it finds what it found. A LayerNorm takes off a mean, which zeros change: it is taken off what is
written, where nobody else would see it. A head that is the embedding is c times as large too: the
gain before it is divided by c twice, its bias once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import sqrt

from rebasin_cli.errors import UsageError
from rebasin_cli.spec.binding.axis_sides import Side, axis_of, axis_sides
from rebasin_cli.spec.binding.bound import BoundNorm, BoundSpec
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.widening.grown_tensors import GrownTensor, NewSizes, grown_axes

_TAKES_MEAN, _SCALE = "layer", "scale"


def stream_norms(bound: BoundSpec, group: str) -> list[BoundNorm]:
    """Return the norms over a group whose readers the spec names."""
    held = {name for t in bound.tensors if group in t.groups for name in t.members}
    return [norm for norm in bound.norms if norm.gain in held]


def grown_stream(
    bound: BoundSpec, tensor: BoundTensor, streams: Sequence[str], sizes: NewSizes
) -> GrownTensor:
    """Return what becomes of a tensor on a stream. Raises UsageError where that is not known."""
    (group, *more) = streams
    if more:
        raise _unknown(tensor, "two residual streams meet there", group)
    name, norms = tensor.members[0], stream_norms(bound, group)
    centres = any(norm.kind == _TAKES_MEAN for norm in norms)
    scaled = any(norm.kind == _SCALE for norm in norms)
    if centres and (scaled or any(norm.tied for norm in norms)):
        why = "LayerNorm takes off a mean, which LayerScale or a tied head would see"
        hint = "" if scaled else "rebasin fold MODEL --tie untie first, and widen what it writes"
        raise _unknown(tensor, why, group, hint=hint)
    c = sqrt(sizes.new[group] / bound.groups[group].size)
    own = next((norm for norm in norms if name in (norm.gain, norm.bias)), None)
    if own is not None:
        return _of_norm(own, tensor, group, sizes, c)
    if len(tensor.shape) == 1 and not name.endswith("bias"):
        raise _unknown(tensor, "of a norm, the spec does not say what reads it", group)
    if not _writes(bound, tensor, group, norms):
        return GrownTensor(grown_axes(tensor, sizes))
    factors = {**sizes.factors, group: c}
    axes = grown_axes(tensor, NewSizes(sizes.new, factors))
    written = _written_axes(bound, tensor, group) if centres else ()
    return GrownTensor(axes, centred=tuple(axis - int(tensor.stacked) for axis in written))


def _of_norm(
    norm: BoundNorm, tensor: BoundTensor, group: str, sizes: NewSizes, c: float
) -> GrownTensor:
    if norm.kind == _SCALE:
        return GrownTensor(grown_axes(tensor, sizes))
    tied = c if norm.tied else 1.0
    if tensor.members[0] != norm.gain:
        return GrownTensor(grown_axes(tensor, NewSizes(sizes.new, {group: 1 / tied})))
    if norm.offset is None:
        raise _unknown(tensor, "config.json would say whether its norm adds 1 to it", group)
    axes = grown_axes(tensor, NewSizes(sizes.new, {group: 1 / (c * tied)}))
    return GrownTensor(axes, offset=float(norm.offset))


def _writes(
    bound: BoundSpec, tensor: BoundTensor, group: str, norms: Collection[BoundNorm]
) -> bool:
    """Return whether a tensor writes to the stream, and does not only read what a norm gives."""
    name = tensor.members[0]
    if any(norm.tied and name in norm.readers for norm in norms):
        return True
    if _written_axes(bound, tensor, group):
        return True
    if not any(name in norm.readers for norm in norms):
        raise _unknown(tensor, "what it reads goes through no norm that the spec names", group)
    return False


def _written_axes(bound: BoundSpec, tensor: BoundTensor, group: str) -> tuple[int, ...]:
    """Return the axes on which a tensor writes units of a stream, or holds what is added to it."""
    sides = axis_sides(tensor, bound.transposed)
    dims = (dim for block in tensor.blocks for dim in block.dims if dim.group == group)
    axes = {axis for dim in dims if (axis := axis_of(tensor, dim)) is not None}
    return tuple(sorted(axis for axis in axes if Side.READ not in sides[axis]))


def _unknown(tensor: BoundTensor, why: str, group: str, *, hint: str = "") -> UsageError:
    return UsageError(
        f"group {group!r} is a residual stream, and cannot be widened",
        detail=f"{tensor.members[0]}: {why}",
        hint=hint or "other groups can be: --to GROUP=N names them",
    )

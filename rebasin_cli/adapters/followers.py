"""Tensors that belong to weights of a model, each bound so that it follows its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from rebasin_cli.adapters.along_axes import along_axes
from rebasin_cli.adapters.factor_names import FactorEntry, Role
from rebasin_cli.errors import PermutationError
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors.blocks import BoundTensor, member_places

FollowedAxes = Sequence[int | None]
MATRIX = 2  # axes


@dataclass(frozen=True)
class Follower:
    """A tensor and its weight. shape: its own."""

    entry: FactorEntry
    weight: str
    shape: tuple[int, ...]


class Following:
    """The weights of a bound model, and what follows them.

    inwards: whether the vector of IA3 of a module scales what it reads.
    """

    def __init__(
        self, bound: BoundSpec, *, inwards: Callable[[str], bool] = lambda module: False
    ) -> None:
        self._bound, self._inwards = bound, inwards
        self._places = member_places(bound.tensors)

    def bind(
        self, followers: Sequence[Follower]
    ) -> Iterator[tuple[str, BoundTensor | PermutationError]]:
        """Yield the bound tensors of followers whose weight the spec names, or what is wrong.

        With the name of the first of a stack.
        """
        stacks: dict[object, list[tuple[int, Follower]]] = {}
        for follower in followers:
            if follower.weight in self._places and follower.entry.role is not Role.STILL:
                tensor, position = self._places[follower.weight]
                entry = follower.entry
                key = (tensor.members, entry.kind) if tensor.stacked else entry.name
                stacks.setdefault(key, []).append((position, follower))
        for numbered in stacks.values():
            members = [f for _, f in sorted(numbered, key=lambda item: item[0])]
            try:
                yield members[0].entry.name, self._bound_stack(members)
            except PermutationError as error:
                yield members[0].entry.name, error

    def _bound_stack(self, members: Sequence[Follower]) -> BoundTensor:
        """Return one tensor, or a stack of them as of experts stored one by one."""
        first = members[0]
        tensor, _ = self._places[first.weight]
        axes, shape = self._axes(first, tensor)
        if tensor.stacked:
            _check_stack(members, tensor)
            axes = [0, *(axis if axis is None else axis + 1 for axis in axes)]
            shape = (len(members), *shape)
        names = tuple(member.entry.name for member in members)
        return along_axes(tensor, axes, shape, members=names, groups=self._bound.groups)

    def _axes(
        self, follower: Follower, tensor: BoundTensor
    ) -> tuple[FollowedAxes, tuple[int, ...]]:
        """Return the axes of the weight that a follower has, and its shape with those apart."""
        weight = tensor.shape[1:] if tensor.stacked else tensor.shape
        transposed = follower.entry.embedding or follower.weight in self._bound.transposed
        sides = (1, 0) if transposed and len(weight) == MATRIX else (0, 1)
        if follower.entry.role is Role.SCALE and self._scales_inputs(follower):
            sides = sides[1], sides[0]
        still = transposed and len(weight) > MATRIX and follower.entry.role is not Role.WHOLE
        found = None if still else axes_in(follower, weight, sides)
        if found is None and sides == (1, 0) and not follower.entry.embedding:
            found = axes_in(follower, weight, (0, 1))  # a head reads what an embedding looks up
        if found is None:
            raise PermutationError(
                f"{follower.entry.name!r} is {list(follower.shape)}, which does not fit "
                f"{follower.weight!r}, {list(weight)}"
            )
        return found

    def _scales_inputs(self, follower: Follower) -> bool:
        """Return whether a vector of IA3 scales what its module reads: (1, in), else (out, 1).

        Of convolutions both are (1, n, 1, 1); there the configuration tells.
        """
        if len(follower.shape) == MATRIX:
            return follower.shape[0] == 1
        return self._inwards(follower.entry.target.rpartition(".")[0])


def _check_stack(members: Sequence[Follower], tensor: BoundTensor) -> None:
    """Raise unless each weight of a stack has a follower, and all of one shape."""
    name, there = members[0].entry.name, {member.weight for member in members}
    lacking = [weight for weight in tensor.members if weight not in there]
    if lacking:
        raise PermutationError(
            f"{name!r} belongs to a weight that changes places with others, and {lacking[0]!r} has "
            "no such tensor"
        )
    if len({member.shape for member in members}) > 1:
        raise PermutationError(
            f"{name!r} and those of the weights that it changes places with are of several shapes"
        )


def axes_in(
    follower: Follower, weight: Sequence[int], sides: tuple[int, int]
) -> tuple[FollowedAxes, tuple[int, ...]] | None:
    """Return axes and shape of a follower, None if its shape does not fit the weight."""
    role, shape = follower.entry.role, follower.shape
    if role is Role.WHOLE:
        return (range(len(shape)), shape) if tuple(weight) == shape else None
    if len(weight) < MATRIX:
        return None
    out, into = sides
    axes = range(len(weight))
    match role:
        case Role.READS:
            return _reading(shape, weight, into)
        case Role.WRITES:
            fits = len(shape) >= MATRIX and shape[0] == weight[out] and prod(shape[2:]) == 1
            return ([out, *[None] * (len(shape) - 1)], shape) if fits else None
        case Role.ROWS:
            return ([None, out], shape) if shape[1:] == (weight[out],) else None
        case Role.VECTOR:
            return _vector(shape, weight, (out,))
        case Role.OVER_COLUMNS:
            return _without(shape, weight, axes[-1])
        case Role.OVER_ROWS:
            return _without(shape, weight, axes[-2])
        case _:
            return _vector(shape, weight, sides)


def _reading(
    shape: tuple[int, ...], weight: Sequence[int], into: int
) -> tuple[FollowedAxes, tuple[int, ...]] | None:
    """Return the axes of A: (r, in), with a kernel or without, flattened or with axes of 1."""
    if len(shape) < MATRIX:
        return None
    kernel = tuple(weight[MATRIX:])
    if shape[1] == weight[into] and prod(shape[2:]) == 1:
        return [None, into, *[None] * (len(shape) - MATRIX)], shape
    if shape[1:] in ((weight[into], *kernel), (weight[into] * prod(kernel),)):
        axes = [None, into, *range(MATRIX, len(weight))]
        return axes, (shape[0], weight[into], *kernel)
    return None


def _vector(
    shape: tuple[int, ...], weight: Sequence[int], sides: Sequence[int]
) -> tuple[FollowedAxes, tuple[int, ...]] | None:
    """Return the axes of a vector that may have axes of 1 beside it."""
    side = next((s for s in sides if prod(shape) == max(shape, default=1) == weight[s]), None)
    if side is None:
        return None
    long = shape.index(max(shape))
    return [side if axis == long else None for axis in range(len(shape))], shape


def _without(
    shape: tuple[int, ...], weight: Sequence[int], axis: int
) -> tuple[FollowedAxes, tuple[int, ...]] | None:
    """Return the axes of a factor that lacks one axis of the weight, or has it with size 1."""
    rest = [*weight[:axis], *weight[axis + 1 :]]
    axes: list[int | None] = [k for k in range(len(weight)) if k != axis]
    if list(shape) == rest:
        return axes, shape
    if list(shape) == [*rest[:axis], 1, *rest[axis:]]:
        return [*axes[:axis], None, *axes[axis:]], shape
    return None

"""Tensors that a spec does not name: which may stay, and whose units they could hold.

A scale, a mask or a low-rank factor beside a weight follows its units, whatever the spec says of
it: left in the old order it breaks the function. Name and shape tell what it could belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from rebasin_cli.checkpoint.torch_format.container import is_extra_state
from rebasin_cli.errors import SpecError
from rebasin_cli.files.headers import Headers
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.binding.bind import uncovered_tensors
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.wording import and_more, listing, shorten

SHOWN = 10


def is_excused(name: str, selection: Selection) -> bool:
    """Return whether a spec need not name a tensor."""
    return selection.excuses(name) or is_extra_state(name)


def unnamed_tensors(bound: BoundSpec, headers: Headers, selection: Selection) -> tuple[str, ...]:
    """Return the tensors that no pattern names although they could matter.

    Those are floating and of more than one element, or lie beside a tensor that is named, such as
    `weight_mask`. What --skip, --only or --pass-through name is left out.
    """
    infos = headers.infos
    floating = uncovered_tensors(bound, infos)
    named = {name for tensor in bound.tensors for name in tensor.members}
    beside = (n for n in bound.untouched if infos[n].numel > 1 and _extends(n, named))
    suspects = dict.fromkeys((*floating, *beside))
    return tuple(name for name in suspects if not is_excused(name, selection))


def check_unnamed(name: str, bound: BoundSpec, headers: Headers, selection: Selection) -> None:
    """Raise SpecError for tensors that the spec called `name` does not mention."""
    left = unnamed_tensors(bound, headers, selection)
    if left:
        raise SpecError(
            f"spec {name!r} does not name {len(left)} of the tensors",
            where=headers.where,
            detail="\n".join(shorten(left, SHOWN, and_more)),
            hint="name them in the spec; or --pass-through GLOB says that they hold no units; or "
            "--skip GLOB, where a command has it, leaves them and all units that they could hold "
            "in place",
        )


def check_passed(
    bound: BoundSpec, headers: Headers, selection: Selection, moving: frozenset[str]
) -> None:
    """Raise SpecError for a tensor of --pass-through that could hold units that move.

    moving: roots of the families that may move.
    """
    passed = [n for n in bound.untouched if selection.passes(n) and headers.infos[n].numel > 1]
    for name in passed:
        groups = [
            bound.groups[group] for group in sorted(touched_groups(bound, headers.infos[name]))
        ]
        names = [group.name for group in groups if group.root in moving and not group.fixed]
        if names:
            raise SpecError(
                f"{name!r} could hold units of {listing(names, most=3)}, which move",
                where=headers.where,
                detail=f"it is {list(headers.infos[name].shape)}",
                hint=f"name it in the spec; or --skip '{name}', where a command has it, leaves it "
                "and those units in place",
            )


def touched_groups(bound: BoundSpec, info: TensorInfo) -> frozenset[str]:
    """Return the groups whose units a tensor could hold, as far as its name and shape tell.

    It lies in the module of a tensor of theirs, or has an axis as long as one of theirs, or a whole
    number of times as long: units are flattened with pixels, or stand side by side.
    """
    found: set[str] = set()
    for tensor in bound.tensors:
        if any(_inside(info.name, member) for member in tensor.members):
            found |= tensor.groups
        sized = ((group, tensor.shape[axis]) for group, axis in axis_groups(tensor))
        found |= {group for group, size in sized if size > 1 and _could_hold(info, size)}
    sizes = {group.name: group.size for group in bound.groups.values()}
    return frozenset(found | {name for name, size in sizes.items() if 1 < size in info.shape})


def _could_hold(info: TensorInfo, size: int) -> bool:
    return any(length and length % size == 0 for length in info.shape)


def axis_groups(tensor: BoundTensor) -> Iterator[tuple[str, int]]:
    """Yield each group of a tensor with an axis it lies on."""
    steps = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    for dim in (dim for block in tensor.blocks for dim in block.dims):
        if dim.group is not None:
            yield dim.group, next(k for k, step in enumerate(steps) if dim.stride >= step)


def _extends(name: str, named: set[str]) -> bool:
    """Return whether a name is that of a named tensor with something behind it."""
    ends = (k for k, letter in enumerate(name) if letter in "._")
    return any(name[:end] in named for end in ends)


def _inside(name: str, member: str) -> bool:
    """Return whether a tensor belongs to the module of another, or to the tensor itself."""
    module = member.rpartition(".")[0]
    return name.startswith((f"{member}_", f"{member}.", *([f"{module}."] if module else [])))

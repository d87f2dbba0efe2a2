"""Groups that the outputs do not depend on: that those stay when they are permuted proves nothing.

Gradients tell cheaply on what the outputs depend, but not everywhere: through a ranking or a
rounding there are none. So they only say which groups to doubt; those of them are unmoved whose
numbers can be anything without one bit of the outputs changing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

from torch import Tensor

from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec, axes_of, axis_names
from rebasin_cli.tensors.blocks import Block
from rebasin_cli.tracer.derivation.derive import FixedAxis
from rebasin_cli.tracer.derivation.unused import UNUSED
from rebasin_cli.tracer.proof.culprits import drop_groups, orphaned_groups
from rebasin_cli.tracer.proof.proof import Trial

RUNS = 200  # of the model with other numbers, at most: what is not known to be unmoved stays
BlockPlaces = Mapping[str, Sequence[Block]]


def unmoved_groups(trial: Trial, bound: BoundSpec) -> list[str]:
    """Return the groups of which no number reaches the outputs."""
    suspects = [group.name for group in bound.groups.values() if not group.fixed]
    everywhere = _by_group(bound)
    # The slope of a bias is a sum, that of a matrix a product as large as a run; most often the
    # first tells enough, of the smallest input.
    for names in (_light(bound), _stored(bound)):
        for slopes in trial.slopes(names):
            suspects = [name for name in suspects if not _has_slope(slopes, everywhere[name])]
            if not suspects:
                return []
    left = RUNS

    def stays(names: Sequence[str]) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and trial.ignores(_places(bound, names))

    return _ignored(suspects, stays)


def _ignored(names: Sequence[str], stays: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return those that may all change at once, found by halving."""
    if not names or stays(names):
        return list(names)
    if len(names) == 1:
        return []
    half = len(names) // 2
    return [*_ignored(names[:half], stays), *_ignored(names[half:], stays)]


def _places(bound: BoundSpec, names: Iterable[str]) -> dict[str, list[Block]]:
    """Return the blocks in which any of some groups occurs, by tensor."""
    wanted = set(names)
    found = {
        tensor.members[0]: [b for b in tensor.blocks if wanted.intersection(b.groups)]
        for tensor in bound.tensors
    }
    return {name: blocks for name, blocks in found.items() if blocks}


def _by_group(bound: BoundSpec) -> dict[str, dict[str, list[Block]]]:
    """Return for each group the blocks that it occurs in, by tensor."""
    found: dict[str, dict[str, list[Block]]] = {name: {} for name in bound.groups}
    for tensor in bound.tensors:
        for block in tensor.blocks:
            for name in {name for name in block.groups if name}:
                found[name].setdefault(tensor.members[0], []).append(block)
    return found


def _stored(bound: BoundSpec) -> dict[str, int]:
    """Return the tensors that have slopes, with their sizes."""
    named = {t.members[0]: prod(t.shape) for t in bound.tensors}
    return {name: size for name, size in named.items() if name not in bound.buffers}


def _light(bound: BoundSpec) -> set[str]:
    """Return, for each group, the smallest tensors that it is in."""
    sizes = _stored(bound)
    least: dict[str, int] = {}
    places = [(t.members[0], g) for t in bound.tensors for g in t.groups if t.members[0] in sizes]
    for name, group in places:
        least[group] = min(least.get(group, sizes[name]), sizes[name])
    return {name for name, group in places if sizes[name] == least[group]}


def _has_slope(slopes: Mapping[str, Tensor], places: BlockPlaces) -> bool:
    known = ((slopes[name], blocks) for name, blocks in places.items() if name in slopes)
    slices = (block.view(slope) for slope, blocks in known for block in blocks)
    return any(bool((slope != 0).any()) for slope in slices)


def without_unmoved(spec: Spec, bound: BoundSpec, names: Sequence[str]) -> Spec:
    """Return the spec in which some groups are fixed, and their children of them."""
    return orphaned_groups(drop_groups(spec, bound, names), bound, [])


def unmoved_tensors(bound: BoundSpec, names: Iterable[str]) -> list[str]:
    """Return the tensors of which no number reaches the outputs, and which nothing else moves."""
    gone = set(names)
    return [
        tensor.members[0]
        for tensor in bound.tensors
        if tensor.groups <= gone and all(gone.intersection(b.groups) for b in tensor.blocks)
    ]


def fixed_axes(spec: Spec, bound: BoundSpec, names: Iterable[str]) -> list[FixedAxis]:
    """Return what is fixed for want of use: the axes of some groups, in the order of tensors."""
    gone = set(names)
    found = [
        FixedAxis(name.removesuffix("?"), axis, bound.groups[group].size, UNUSED, soft=False)
        for name, entry in spec.tensors.items()
        for row in axes_of(entry)
        for axis, expression in enumerate(row)
        for group in axis_names([expression])
        if group in gone
    ]
    return list(dict.fromkeys(found))

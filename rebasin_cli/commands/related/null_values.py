"""Two models with a share of their units, for what a search makes of noise in all of them.

A null value takes a search of its own, as long as that of the models. It is a matter of sizes, and
of how the entries of the first model hang together: where a search is long it is made of a share of
all units, words and classes, alike. From there to the whole a law leads. Of all orders of n units,
n! or exp(n log n), the best brings n m Gaussian entries next to others by a cosine of at most
sqrt(2 log n / m), so that its square goes as log n / n does; orthogonal maps are worth as much as
their nuclear norm. How both add up changes slowly with size: where models are rotated, what is
carried over from half as many units tells that, and from both it is extended to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lgamma, log2, pi, prod, sqrt

import torch
from torch import Tensor

from rebasin_cli.commands.related.frames import MapFinder, PairFrame
from rebasin_cli.matching.diagnostics.unit_figures import group_dims
from rebasin_cli.matching.problem.inner_products import inner, square
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.language.model import INTERLEAVED, ORTHOGONAL, PERMUTATION, ROTARY
from rebasin_cli.symmetry.voting_blocks import TINY, Place, key_of
from rebasin_cli.tensors import InMemory, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor, ByTensor, Dim

LEAST = 16  # units, of which none are left out
NUCLEAR = (8 / (3 * pi)) ** 2  # of n^3: square of the nuclear norm of an (n, n) of Gaussians
TURNED = (ROTARY, INTERLEAVED)  # classes whose units are kept in pairs


@dataclass(frozen=True)
class Closeness:
    """The inner product of a matrix in two models, its length in each, and its elements."""

    inner: float
    mine: float
    theirs: float
    elements: int

    @property
    def cosine(self) -> float:
        both = self.mine * self.theirs
        return self.inner / both if both else 0.0


def closeness(a: TensorSource, b: TensorSource, bound: BoundSpec) -> dict[str, Closeness]:
    """Return how close each tensor that votes is to its counterpart, by first name.

    What is zero in both models tells nothing, and is left out.
    """
    found = {}
    for tensor in bound.tensors:
        if tensor.votes:
            x, y = (tensor.load(source) for source in (a, b))
            mine, theirs = sqrt(square(x)), sqrt(square(y))
            if mine or theirs:
                found[tensor.members[0]] = Closeness(inner(x, y), mine, theirs, x.numel())
    return found


def least_near_unit(a: TensorSource, b: TensorSource, bound: BoundSpec) -> float:
    """Return the smallest cosine of a unit with its counterpart; units of zeros are left out."""
    sums: dict[str, Tensor] = {}
    for tensor in bound.tensors:
        if not tensor.votes:
            continue
        x, y = (tensor.load(source) for source in (a, b))
        for block in tensor.blocks:
            for group, found in _by_unit(block, x, y, bound):
                sums[group] = sums[group] + found if group in sums else found
    return min((_least_cosine(each) for each in sums.values()), default=1.0)


def _by_unit(block: Block, x: Tensor, y: Tensor, bound: BoundSpec) -> Iterator[tuple[str, Tensor]]:
    """Yield <x, y>, <x, x> and <y, y> of each unit of each group in a block: (3, ..., units)."""
    a, b = block.view(x), block.view(y)
    for place in group_dims(block, bound.groups):
        rows, others = (_in_front(values, place.axes) for values in (a, b))
        pairs = ((rows, others), (rows, rows), (others, others))
        yield place.group, torch.stack([torch.linalg.vecdot(p, q).double() for p, q in pairs])


def _in_front(values: Tensor, front: Sequence[int]) -> Tensor:
    places = list(range(len(front)))
    return values.movedim(list(front), places).flatten(len(front))


def _least_cosine(sums: Tensor) -> float:
    inner, mine, theirs = sums
    there = (mine > 0) | (theirs > 0)
    found = torch.where(there, inner / (mine * theirs).sqrt().clamp_min(TINY), 1.0)
    return float(found.min())


def among_noise(
    pair: tuple[TensorSource, TensorSource], frame: PairFrame, find: MapFinder, seed: int
) -> dict[str, Closeness]:
    """Return how close a search brings noise to the first of two models.

    Noise is the second with the entries of each block in a random order.
    """
    first, second = pair
    noise = Shuffled(second, frame.bound, seed)
    return closeness(first, frame.moved(noise, find(first, noise)), frame.bound)


def null_of_sample(
    pair: tuple[TensorSource, TensorSource],
    frame: PairFrame,
    finder: Callable[[PairFrame], MapFinder],
    share: float,
    seed: int,
) -> dict[str, float]:
    """Return what `among_noise` would come to, from a share of all units; see above."""
    found = _carried_over(pair, frame, finder, share, seed)
    if frame.folding is None:
        return found
    less = _carried_over(pair, frame, finder, share / 2, seed)
    halvings = log2(1 / share)
    return {
        name: min(max(value + halvings * (value - less.get(name, value)), 0.0), 1.0)
        for name, value in found.items()
    }


def _carried_over(
    pair: tuple[TensorSource, TensorSource],
    frame: PairFrame,
    finder: Callable[[PairFrame], MapFinder],
    share: float,
    seed: int,
) -> dict[str, float]:
    """Return the cosines of noise in a share of all units, carried over to all by their freedom."""
    small = _thin(pair, frame.bound, frame.classes, share)
    less = replace(frame, bound=small.bound)
    found = among_noise((small.reference, small.other), less, finder(less), seed)
    whole, here = (_freedom(bound, frame.classes) for bound in (frame.bound, small.bound))
    sums: dict[str, Tensor] = {}
    for name, each in found.items():
        place, size = small.places[name]
        factor, growth = size / each.elements, sqrt(whole[place] / (here[name, 0] or 1.0))
        one = [each.inner * factor * growth, each.mine**2 * factor, each.theirs**2 * factor]
        sums[place[0]] = sums.get(place[0], 0) + torch.tensor(one, dtype=torch.float64)
    return {name: float(i / (m * t).sqrt().clamp_min(TINY)) for name, (i, m, t) in sums.items()}


class Shuffled(ByTensor):
    """A model with the entries of each block that votes in a random order: a seed says which."""

    def __init__(self, source: TensorSource, bound: BoundSpec, seed: int) -> None:
        super().__init__(source, (tensor for tensor in bound.tensors if tensor.votes))
        self._seeds = {t.members: seed + number for number, t in enumerate(bound.tensors)}

    def _remade(self, tensor: BoundTensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seeds[tensor.members])
        values = tensor.load(self._source).clone()
        for block in tensor.blocks:
            view = block.view(values)
            order = torch.randperm(view.numel(), generator=generator)
            view.copy_(view.reshape(-1)[order].reshape(view.shape))
        return values


@dataclass(frozen=True)
class _Thinned:
    """A share of the units of two models.

    places: of each small tensor, the block that it is of, and how many elements that has.
    """

    bound: BoundSpec
    reference: TensorSource
    other: TensorSource
    places: Mapping[str, tuple[Place, int]]


def _thin(
    pair: tuple[TensorSource, TensorSource],
    bound: BoundSpec,
    classes: Mapping[str, str],
    share: float,
) -> _Thinned:
    """Return two models with a share of the units, of each block that votes a tensor."""
    sizes = _sizes(bound, classes, share)
    groups = {name: _thinned_group(group, sizes) for name, group in bound.groups.items()}
    tensors, places = list[BoundTensor](), dict[str, tuple[Place, int]]()
    states: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for tensor in bound.tensors:
        if not tensor.votes:
            continue
        both = [tensor.load(source) for source in pair]
        for block in tensor.blocks:
            name = f"{key_of(tensor)} {block.offset}"
            dims = tuple(_dims(block, sizes, share))
            for state, values in zip(states, both, strict=True):
                state[name] = _chosen(block, values, dims, classes)
            tensors.append(_tensor(name, dims))
            places[name] = (key_of(tensor), block.offset), block.numel
    small = replace(bound, groups=groups, tensors=tuple(tensors), untouched=())
    return _Thinned(small, InMemory(states[0]), InMemory(states[1]), places)


def _tensor(name: str, dims: tuple[Dim, ...]) -> BoundTensor:
    shape = tuple(dim.size for dim in dims)
    return BoundTensor((name,), False, shape, (Block(0, dims),), votes=True)


def _sizes(bound: BoundSpec, classes: Mapping[str, str], share: float) -> dict[str, int]:
    """Return how many units each group keeps; a group that others are inside of keeps all."""
    parents = {parent for group in bound.groups.values() for parent in group.parents}
    inside = {n: {c for c in bound.groups.values() if n in c.parents} for n in parents}
    whole = {n for n in parents if any(c.size > 1 for c in inside[n])}
    return {
        name: group.size if name in whole else _fewer(group.size, share, classes[name] in TURNED)
        for name, group in bound.groups.items()
    }


def _fewer(size: int, share: float, even: bool = False) -> int:
    found = size if size <= LEAST else max(LEAST, round(size * share))
    return found - found % 2 if even else found


def _thinned_group(group: BoundGroup, sizes: Mapping[str, int]) -> BoundGroup:
    return replace(group, shape=tuple(sizes[name] for name in (*group.parents, group.name)))


def _dims(block: Block, sizes: Mapping[str, int], share: float) -> Iterator[Dim]:
    """Yield the dimensions of a block with fewer units, one element after another."""
    counts = [sizes[d.group] if d.group else _fewer(d.size, share) for d in block.dims]
    for k, dim in enumerate(block.dims):
        yield Dim(counts[k], prod(counts[k + 1 :]), dim.group)


def _chosen(
    block: Block,
    values: Tensor,
    dims: tuple[Dim, ...],
    classes: Mapping[str, str],
) -> Tensor:
    """Return the values of a block at the units that stay: evenly spread, pairs of them whole."""
    view = block.view(values)
    for axis, (dim, few) in enumerate(zip(block.dims, dims, strict=True)):
        if few.size < dim.size:
            kind = classes[dim.group] if dim.group else ""
            view = view.index_select(axis, _spread(dim.size, few.size, kind))
    return view.contiguous()


def _spread(size: int, few: int, kind: str) -> Tensor:
    """Return the indices of a few units of many."""
    if kind not in TURNED:
        return torch.arange(few) * size // few
    pairs = torch.arange(few // 2) * (size // 2) // (few // 2)
    if kind == ROTARY:
        return torch.cat([pairs, pairs + size // 2])
    return torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()


def _freedom(bound: BoundSpec, classes: Mapping[str, str]) -> dict[Place, float]:
    """Return for each block how much the groups in it may be moved, for each of its entries."""
    every = {name: _of_group(group, classes[name]) for name, group in bound.groups.items()}
    return {
        (key_of(tensor), block.offset): sum(every[n] for n in set(block.groups) if n) / block.numel
        for tensor in bound.tensors
        for block in tensor.blocks
        if tensor.votes
    }


def _of_group(group: BoundGroup, kind: str) -> float:
    """Return what the maps of a group make of noise: half the square of the best inner product.

    Of orders log n!, the logarithm of how many there are; of orthogonal maps (8 / 3 pi)^2 n^2 / 2,
    the square of a nuclear norm; of angles and signs, which are few, one for each.
    """
    if group.fixed and kind == PERMUTATION:
        return 0.0
    size = group.size
    found = {PERMUTATION: lgamma(size + 1), ORTHOGONAL: NUCLEAR * size**2 / 2}.get(kind, size / 2)
    return prod(group.shape[:-1]) * found

"""How many models are brought into one frame before they are averaged.

Every strategy has one signature and stands in `STRATEGIES` by name. What each returns is a
permutation to the reference's frame for every model, so any two models agree on how they
map to one another by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.measure import constant
from rebasin_cli.matching.result import Matching
from rebasin_cli.matching.settings import Settings
from rebasin_cli.matching.weights import match_weights
from rebasin_cli.permutation import Permutation, Permutations, Permuted, compose, identity, inverse
from rebasin_cli.progress import Progress
from rebasin_cli.spec import BoundSpec
from rebasin_cli.tensors import InMemory, TensorSource

ROUNDS = 100  # as published; merges of real networks settle within ten


@dataclass(frozen=True)
class Request:
    """Models to bring into the frame of `sources[reference]`, and how to search."""

    sources: Sequence[TensorSource]
    bound: BoundSpec
    settings: Settings
    reference: int
    movable: frozenset[str] | None
    labels: Sequence[str]
    progress: Progress

    def permuted(self, which: int, permutations: Permutations) -> Permuted:
        """Return one model, permuted."""
        return Permuted(self.sources[which], self.bound.tensors, permutations)


@dataclass(frozen=True)
class Alignment:
    """One permutation to the reference's frame for each model.

    rounds: how often each model was matched; converged: whether none moved in the last round.
    """

    permutations: tuple[Permutations, ...]
    rounds: int = 0
    converged: bool = True


def none(request: Request) -> Alignment:
    """Leave every model as it is."""
    return Alignment(tuple(_still(request.bound) for _ in request.sources))


def star(request: Request) -> Alignment:
    """Align each model to the reference alone."""
    still = _still(request.bound)
    found = (
        still if which == request.reference else _to_reference(request, which).permutations
        for which in range(len(request.sources))
    )
    return Alignment(tuple(found), rounds=1)


def many(request: Request) -> Alignment:
    """Align each model to the sum of all others, in turn, until no model moves.

    Source: MergeMany, Ainsworth, Hayase, Srinivasa 2023, Algorithm 3. Deviations: (1) the
    models join the sum one after another, each matched to those already in it, since from the
    identity the ascent gets stuck lower on residual networks; each of `restarts` does the same
    from random orders of units; (2) the result is mapped back to the reference's frame, which
    changes no distance. Memory: the sum and one model, however many there are.
    """
    best = _ascent(request, _joined(request))
    for restart in range(request.settings.restarts):
        seed = request.settings.seed + 1 + restart
        random = replace(request, settings=replace(request.settings, starts=("random",), seed=seed))
        found = _ascent(random, _joined(random))
        if pair_objective(request, found.permutations) > pair_objective(request, best.permutations):
            best = found
    home = inverse(best.permutations[request.reference])
    return replace(best, permutations=tuple(compose(p, home) for p in best.permutations))


def _joined(request: Request) -> Alignment:
    """Match each model to the sum of the reference and those before it."""
    total, permutations = _Total(request), list(none(request).permutations)
    total.add(request.reference, permutations[request.reference])
    for which in range(len(permutations)):
        if which != request.reference:
            permutations[which] = total.match(which)
            total.add(which, permutations[which])
    return Alignment(tuple(permutations), rounds=1)


def _ascent(request: Request, start: Alignment) -> Alignment:
    """Match each model to the sum of all others, in random order, until none moves."""
    total, permutations = _Total(request), list(start.permutations)
    for which, own in enumerate(permutations):
        total.add(which, own)
    moved, rounds = True, start.rounds
    generator = torch.Generator().manual_seed(request.settings.seed)
    while moved and rounds < ROUNDS:
        moved, rounds = False, rounds + 1
        for which in torch.randperm(len(permutations), generator=generator).tolist():
            found = total.improve(which, permutations[which])
            moved = moved or not _equal(found, permutations[which])
            permutations[which] = found
    return Alignment(tuple(permutations), rounds, not moved)


def pair_objective(request: Request, permutations: Sequence[Permutations]) -> float:
    """Return the sum over pairs of models of their inner product, one tensor at a time.

    Equal to (|S|^2 - sum |W|^2) / 2 with S the sum of the permuted models W. Voting tensors.
    """
    models = [request.permuted(k, p) for k, p in enumerate(permutations)]
    value = 0.0
    for name in _voting(request):
        total, own = torch.zeros(()), 0.0
        for model in models:
            tensor = _wide(model.load(name))
            total, own = total + tensor, own + _square(tensor)
        value += (_square(total) - own) / 2
    return value


class _Total:
    """The sum of aligned models over the voting tensors, kept up to date as models move.

    Restarts are those of the whole ascent, not of the matches within it: the first ascent is
    then the same with and without them, and more of them never make the result worse.
    """

    def __init__(self, request: Request) -> None:
        self._request = replace(request, settings=replace(request.settings, restarts=0))
        first = request.sources[request.reference]
        self._sum = {name: torch.zeros_like(_wide(first.load(name))) for name in _voting(request)}

    def add(self, which: int, permutations: Permutations, sign: int = 1) -> None:
        """Add a permuted model to the sum, or with sign -1 take it out."""
        model = self._request.permuted(which, permutations)
        for name, value in self._sum.items():
            value.add_(model.load(name).to(value.dtype), alpha=sign)

    def match(self, which: int, initial: Permutations | None = None) -> Permutations:
        """Return the permutations that bring a model next to the sum."""
        request = self._request
        return match_weights(
            InMemory(self._sum),
            request.sources[which],
            request.bound,
            request.settings,
            movable=request.movable,
            initial=initial,
            labels=("the sum of the other models", request.labels[which]),
            progress=request.progress,
        ).permutations

    def improve(self, which: int, permutations: Permutations) -> Permutations:
        """Match one model to the sum of the others, from where it is now."""
        self.add(which, permutations, -1)
        found = self.match(which, permutations)
        self.add(which, found)
        return found


def _voting(request: Request) -> list[str]:
    """Return the names of the tensors that count in the objective, the constant part included."""
    bound = request.bound
    named = [name for tensor in bound.tensors if tensor.votes for name in tensor.members]
    return [*named, *constant(bound, request.sources[0])]


def _to_reference(request: Request, which: int) -> Matching:
    return match_weights(
        request.sources[request.reference],
        request.sources[which],
        request.bound,
        request.settings,
        movable=request.movable,
        labels=(request.labels[request.reference], request.labels[which]),
        progress=request.progress,
    )


def _still(bound: BoundSpec) -> dict[str, Permutation]:
    return {g.name: identity(g.shape, g.parents) for g in bound.groups.values()}


def _equal(a: Permutations, b: Permutations) -> bool:
    return all(a[name] == b[name] for name in b)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


STRATEGIES: Mapping[str, Callable[[Request], Alignment]] = {
    "many": many,
    "star": star,
    "none": none,
}

"""How many models are brought into one frame before they are averaged.

Every strategy has one signature and stands in `STRATEGIES` by name. What each returns is a
permutation to the reference's frame for every model, so any two models agree on how they
map to one another by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching import Matching, Settings, constant, match_weights
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

    rounds: how often all models were visited; converged: whether none moved in the last.
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

    Source: MergeMany, Ainsworth, Hayase, Srinivasa 2023, Algorithm 3. Deviations: it starts
    from the star, not from the identity, and the result is mapped back to the reference's
    frame, which changes no distance. Memory: the sum and one model, however many there are.
    """
    permutations = list(star(request).permutations)
    total, moved, rounds = _Total(request, permutations), True, 0
    generator = torch.Generator().manual_seed(request.settings.seed)
    while moved and rounds < ROUNDS:
        moved, rounds = False, rounds + 1
        for k in torch.randperm(len(permutations), generator=generator).tolist():
            found = total.improve(k, permutations[k])
            moved = moved or not _equal(found, permutations[k])
            permutations[k] = found
    home = inverse(permutations[request.reference])
    back = tuple(compose(p, home) for p in permutations)
    return Alignment(back, rounds, not moved)


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
    """The sum of all aligned models over the voting tensors, kept up to date as models move."""

    def __init__(self, request: Request, permutations: Sequence[Permutations]) -> None:
        self._request = request
        self._sum = {name: torch.zeros(()) for name in _voting(request)}
        for which, own in enumerate(permutations):
            model = request.permuted(which, own)
            for name in self._sum:
                self._sum[name] = self._sum[name] + _wide(model.load(name))

    def _add(self, which: int, permutations: Permutations, sign: int) -> None:
        model = self._request.permuted(which, permutations)
        for name, value in self._sum.items():
            value.add_(model.load(name).to(value.dtype), alpha=sign)

    def improve(self, which: int, permutations: Permutations) -> Permutations:
        """Match one model to the sum of the others, from where it is now."""
        request = self._request
        self._add(which, permutations, -1)
        matching = match_weights(
            InMemory(self._sum),
            request.sources[which],
            request.bound,
            request.settings,
            movable=request.movable,
            initial=permutations,
            labels=("the sum of the other models", request.labels[which]),
            progress=request.progress,
        )
        self._add(which, matching.permutations, 1)
        return matching.permutations


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

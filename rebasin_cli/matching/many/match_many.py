"""Several models brought into one frame: what is asked for, what is found, and their sum.

With W_b the permuted models and S their sum, F = sum over pairs of <W_a, W_b> = (|S|^2 - sum
|W_b|^2) / 2, and the last sum is the same for all permutations: the models are as near to one
another as they can be where the norm of their mean is largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.inner_products import square
from rebasin_cli.matching.problem.measure import constant_tensors
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permutation import Permutation, Permutations, compose, identity, inverse
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress, with_name
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import InMemory, TensorSource
from rebasin_cli.tensors.numbers import in_reals

Recall = Callable[[Callable[[], Permutations]], Permutations]
"""What returns the permutations that the next match finds; they may be known from before."""


def match_anew(match: Callable[[], Permutations]) -> Permutations:
    return match()


@dataclass(frozen=True)
class ManyRequest:
    """Models to bring into the frame of `sources[reference]`, and how to search.

    recall: asked for every match, one after another, always in the same order. sync_method: how
    matches of pairs are reconciled, a key of SYNC_METHODS.
    """

    sources: Sequence[TensorSource]
    bound: BoundSpec
    settings: Settings
    reference: int
    movable: frozenset[str] | None
    labels: Sequence[str]
    progress: Progress
    recall: Recall = match_anew
    sync_method: str = "spectral"

    def permuted(self, which: int, permutations: Permutations) -> Permuted:
        """Return one model, permuted."""
        return Permuted(self.sources[which], self.bound.tensors, permutations)

    def still(self) -> dict[str, Permutation]:
        """Return the permutations that leave a model as it is."""
        return {g.name: identity(g.shape, g.parents) for g in self.bound.groups.values()}

    def match(self, reference: int, which: int) -> Permutations:
        """Return the permutations that bring one model next to another."""
        return self.match_to(self.sources[reference], self.labels[reference], which)

    def match_to(
        self, source: TensorSource, label: str, which: int, *, initial: Permutations | None = None
    ) -> Permutations:
        """Return the permutations that bring a model next to a source."""
        return self.recall(
            lambda: (
                match_weights(
                    source,
                    self.sources[which],
                    self.bound,
                    settings=self.settings,
                    movable=self.movable,
                    initial=initial,
                    labels=(label, self.labels[which]),
                    progress=with_name(self.progress, self.labels[which]),
                ).permutations
            )
        )


@dataclass(frozen=True)
class Alignment:
    """One permutation to the reference's frame for each model.

    Any two models therefore agree on how they map to one another, whichever way round one goes:
    from a to b it is P_b^-1 P_a, and around a circle these cancel (C2M3, Crisostomi et al. 2024).
    rounds: how often each model was matched, at most; converged: whether each is at its best, the
    others in their places.
    torn: share of units that did not come back to themselves when the matches of pairs were
    followed around three models, before they were reconciled; None: no pairs were matched.
    """

    permutations: tuple[Permutations, ...]
    rounds: int = 0
    converged: bool = True
    torn: float | None = None

    def at_home(self, reference: int) -> Alignment:
        """Return the same alignment in the frame of one model: no distance changes.

        All models are reordered alike, by what takes the reference back to its own order.
        """
        home = inverse(self.permutations[reference])
        return replace(self, permutations=tuple(compose(p, home) for p in self.permutations))


class ModelSum:
    """The sum of aligned models over the voting tensors, kept up to date as models move.

    Restarts are those of the whole ascent, not of the matches within it: the first ascent is
    then the same with and without them, and more of them never make the result worse.
    """

    def __init__(self, request: ManyRequest) -> None:
        self._request = replace(request, settings=replace(request.settings, restarts=0))
        first = request.sources[request.reference]
        self._sum = {
            name: torch.zeros_like(_wide(first.load(name))) for name in voting_names(request)
        }

    def add(self, which: int, permutations: Permutations, *, sign: int = 1) -> None:
        """Add a permuted model to the sum, or with sign -1 take it out."""
        model = self._request.permuted(which, permutations)
        for name, value in self._sum.items():
            value.add_(model.load(name).to(value.dtype), alpha=sign)

    def match(self, which: int, initial: Permutations | None = None) -> Permutations:
        """Return the permutations that bring a model next to the sum."""
        label = "the sum of the other models"
        return self._request.match_to(InMemory(self._sum), label, which, initial=initial)

    def improve(self, which: int, permutations: Permutations) -> Permutations:
        """Match one model to the sum of the others, from where it is now.

        The part of F that depends on W_b is <S - W_b, W_b>. The sum serves as well as the mean that
        is published: a positive factor changes no best order.
        """
        self.add(which, permutations, sign=-1)
        found = self.match(which, permutations)
        self.add(which, found)
        return found


def pair_objective(request: ManyRequest, permutations: Sequence[Permutations]) -> float:
    """Return the sum over pairs of models of their inner product, one tensor at a time.

    Equal to (|S|^2 - sum |W|^2) / 2 with S the sum of the permuted models W. Voting tensors.
    """
    models = [request.permuted(k, p) for k, p in enumerate(permutations)]
    value = 0.0
    for name in voting_names(request):
        total, own = torch.zeros(()), 0.0
        for model in models:
            tensor = in_reals(_wide(model.load(name)))
            total, own = total + tensor, own + square(tensor)
        value += (square(total) - own) / 2
    return value


def voting_names(request: ManyRequest) -> list[str]:
    """Return the names of the tensors that count in the objective, the constant part included."""
    bound = request.bound
    named = [name for tensor in bound.tensors if tensor.votes for name in tensor.members]
    return [*named, *constant_tensors(bound, request.sources[0])]


def _wide(tensor: Tensor) -> Tensor:
    if tensor.dtype in (torch.float64, torch.complex128):
        return tensor
    return tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)

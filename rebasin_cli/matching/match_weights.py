"""Weight matching: find the permutations that bring one model next to another.

Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), section 3.2 and Algorithm 1.
Deviations: (1) a work list replaces sweeps over all groups; (2) the search starts from
invariant descriptors and from the middle of all permutations, since the identity alone gets
stuck in residual networks; (3) groups inside a parent are solved together with it; (4) progress
is measured relative to the objective, since an absolute 1e-12 is below float32's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rebasin_cli.errors import look_up
from rebasin_cli.matching.diagnostics.relation import Detail
from rebasin_cli.matching.methods import METHODS
from rebasin_cli.matching.problem.device_tensors import load_models
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.matching.search.pair_search import GIVEN, PairSearch
from rebasin_cli.matching.search.threads import threads
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.device_memory import empty_cache, tell_shortage

DEFAULTS = Settings()
# Of the largest tensors, in two threads whatever the number there is, or rounding would depend on
# it: as one is stored, reordered, sorted, and in the layout of a product.
COPIES = 8
WIDEST = 4  # bytes of a value


def match_weights(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    *,
    settings: Settings = DEFAULTS,
    movable: frozenset[str] | None = None,
    initial: Permutations | None = None,
    labels: tuple[str, str] = ("reference", "other"),
    progress: Progress = silent,
    detail: Detail | None = None,
) -> Matching:
    """Return the permutations of `other` that bring it next to `reference`.

    movable: roots of the families that may move; None: all. initial: where to descend from,
    whatever the method and its starts. labels: what to call the models in an error. detail: how
    far the models are compared when it is over.
    Raises NotFiniteError if a tensor holds NaN or infinity, UsageError for an unknown name.
    """
    models = reference, other

    def matched(settings: Settings) -> Matching:
        memory = memory_shares(settings.max_memory, _largest(models))
        a, b = load_models(models, labels, settings.device, memory.tensors)
        moving = families(bound, movable)
        with threads(settings, moving) as pool:
            pair = Pair(a, b, bound.groups, pool)
            cache = SimilarityCache(pair, moving, memory.similarities)
            search = PairSearch(cache, bound, moving, settings, progress, detail)
            if initial is None:
                return search.best(look_up("method", settings.method, METHODS)(search))
            given = search.descend(initial, seed=settings.seed)
            return search.best(iter([search.attempt("weights", GIVEN, given)]))

    try:
        return matched(settings)
    except torch.OutOfMemoryError:
        if settings.device == "cpu":
            raise
        tell_shortage(torch.device(settings.device))
    empty_cache()
    return matched(replace(settings, device="cpu"))


@dataclass(frozen=True)
class Shares:
    """How many bytes of what may be used are for tensors of both models, and for similarities."""

    tensors: int
    similarities: int


def memory_shares(max_memory: int, largest: int) -> Shares:
    """Return how much memory may be kept, after room for reordering and sorting the largest tensor.

    largest: the elements of the largest tensor.
    """
    room = (max_memory - min(COPIES * WIDEST * largest, max_memory // 2)) // 4
    return Shares(3 * room, room)


def _largest(models: Sequence[TensorSource]) -> int:
    return max((m.info(name).numel for m in models for name in m.names()), default=0)

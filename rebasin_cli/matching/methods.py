"""The ways to search for permutations of one model. All have one signature and stand in METHODS.

Each yields attempts; all end in a descent by coordinates, which no rounding of a relaxation
makes superfluous: the vertex nearest to a soft permutation is not the best one near it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.matching.relaxation.frank_wolfe import FrankWolfe
from rebasin_cli.matching.relaxation.losses import lower_loss
from rebasin_cli.matching.relaxation.polytope import MIDDLE, Polytope, polytope, walk_words
from rebasin_cli.matching.relaxation.sinkhorn import improve
from rebasin_cli.matching.search.certainty import beyond_doubt
from rebasin_cli.matching.search.descent import Descent
from rebasin_cli.matching.search.pair_search import Attempt, PairSearch
from rebasin_cli.matching.search.starts import STARTS, identity_start
from rebasin_cli.permutation import Permutations

PERTURBATION = 0.1  # of the way to a random vertex: further away, walks end lower
SOFT = ("frank-wolfe", "sinkhorn")  # methods that hold soft permutations, whatever they take
FIRST_VISITS = 2  # visits of each family before the starts of a costly search are compared


def weights(search: PairSearch) -> Iterator[Attempt]:
    """Descend by coordinates.

    Starts that were asked for are all followed to the end; of the effort's own, those that are
    ahead after a few visits.
    Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), Algorithm 1.
    """
    if search.settings.starts is None:
        yield _best_start(search, search.effort.starts)
    for k, name in enumerate(search.settings.starts or ()):
        yield _descent_from(search, name, search.settings.seed + k)
    yield from _restarts(search)


def frank_wolfe(search: PairSearch) -> Iterator[Attempt]:
    """Walk through the polytope of soft permutations, round, and descend by coordinates.

    Families too large or too entangled to be relaxed stay where descriptors put them meanwhile.
    Source: see `frank_wolfe`.
    """
    meanwhile = _start(search, "descriptor", search.settings.seed)
    for name in search.settings.starts or (MIDDLE,):
        yield _frank_wolfe_from(search, name, meanwhile)
    for count in range(search.settings.restarts):
        yield _frank_wolfe_from(search, MIDDLE, meanwhile, perturbed=count + 1)


def sinkhorn(search: PairSearch) -> Iterator[Attempt]:
    """Improve soft permutations by gradients, under the loss, round, and descend by coordinates.

    Each restart begins in the middle with other noise. Families that cannot be relaxed stay
    where descriptors put them meanwhile. Source: see `sinkhorn`.
    """
    seed = search.settings.seed
    meanwhile = _start(search, "descriptor", seed)
    names = search.settings.starts or (MIDDLE,)
    for count, name in enumerate((*names, *(MIDDLE,) * search.settings.restarts)):
        yield _sinkhorn_from(search, name, seed + count, meanwhile)


def auto(search: PairSearch) -> Iterator[Attempt]:
    """Walk through the polytope of soft permutations where that costs little, descend elsewhere.

    A walk costs about twenty sweeps, and found better optima on every network measured. The
    descents before it are a first result, and say where to put what is not relaxed.
    """
    if search.settings.starts is not None or not search.cheap or not _fits(search):
        yield from weights(search)
        return
    found = list[Attempt]()
    for k, name in enumerate(search.effort.beside):
        found.append(_descent_from(search, name, search.settings.seed + k))
        yield found[-1]
    best = max(found, key=lambda attempt: attempt.objective)
    yield _frank_wolfe_from(search, MIDDLE, best.descent.permutations)
    for count in range(search.settings.restarts + search.effort.restarts):
        yield _frank_wolfe_from(search, MIDDLE, best.descent.permutations, perturbed=count + 1)


def _best_start(search: PairSearch, names: Sequence[str]) -> Attempt:
    """Follow the first start to its end, and another where it is ahead after a few visits.

    For networks on which a sweep is costly: mostly one alone is followed. Where the first leaves
    no doubt, nothing else is begun.
    """
    seed = search.settings.seed
    first, *others = names
    best = _descent_from(search, first, seed)
    if not others or search.exact(best) or beyond_doubt(search.cache, best.descent.permutations):
        return best
    ahead = best.objective - best.descent.later_rise(FIRST_VISITS)
    for k, name in enumerate(others):
        tried = _descent_from(search, name, seed + 1 + k, visits=FIRST_VISITS)
        if tried.objective > ahead:
            ahead, ended = tried.objective, _follow_to_end(search, tried)
            best = ended if ended.beats(best) else best
    return best


def _follow_to_end(search: PairSearch, tried: Attempt) -> Attempt:
    """Follow a start to its end."""
    begun = tried.descent
    rest = search.descend(begun.permutations, seed=search.settings.seed)
    descent = Descent(rest.permutations, (*begun.gains, *rest.gains), rest.converged)
    return search.attempt(tried.method, tried.start, descent)


def _restarts(search: PairSearch) -> Iterator[Attempt]:
    """Descend from random starts."""
    usual = search.effort.restarts if search.settings.starts is None else 0
    for count in range(search.settings.restarts + usual):
        yield _descent_from(search, "random", search.settings.seed + 1000 + count)


def _fits(search: PairSearch) -> bool:
    """Return whether the arrays of a walk fit into the memory that may be used.

    Beside the models themselves it holds some nine copies of one (see `polytope`), at full width.
    """
    needed = walk_words(search.families, models=1) * search.pair.dtype.itemsize
    return needed <= search.settings.max_memory


def _descent_from(search: PairSearch, name: str, seed: int, visits: int | None = None) -> Attempt:
    start = _start(search, name, seed)
    return search.attempt("weights", name, search.descend(start, seed=seed, visits=visits))


def _frank_wolfe_from(
    search: PairSearch, name: str, meanwhile: Permutations, perturbed: int = 0
) -> Attempt:
    """meanwhile: the permutations of what is not relaxed. perturbed: number of the random
    perturbation of the start; 0: none.
    """
    space = _space(search, meanwhile)
    if not space.families:
        return _descend_unrelaxed(search, meanwhile)
    start = None if name == MIDDLE else space.orders(_start(search, name, search.settings.seed))
    walk = FrankWolfe(space, [start])
    if perturbed:
        seed = search.settings.seed + perturbed
        walk.perturb(torch.Generator().manual_seed(seed), PERTURBATION)
    walk.run(progress=search.progress)
    rounded = {**meanwhile, **walk.rounded()[0]}
    descent = search.descend(rounded, seed=search.settings.seed)
    return search.attempt("frank-wolfe", name, descent)


def _sinkhorn_from(search: PairSearch, name: str, seed: int, meanwhile: Permutations) -> Attempt:
    """meanwhile: the permutations of what is not relaxed."""
    space = _space(search, meanwhile)
    if not space.families:
        return _descend_unrelaxed(search, meanwhile)
    start = None if name == MIDDLE else _start(search, name, seed)
    rounded = {**meanwhile, **improve(space, search.loss, start, seed)}
    if search.settings.loss == "l2":
        descent = search.descend(rounded, seed=seed)
    else:  # the objective may fall from here
        settled, converged = lower_loss(space, search.loss, rounded, search.settings.visits)
        descent = Descent(settled, (), converged)
    return search.attempt("sinkhorn", name, descent)


def _space(search: PairSearch, meanwhile: Permutations) -> Polytope:
    """Return the soft permutations of the other model."""
    models = search.pair.reference, search.pair.other
    here = identity_start(search.pair, search.families, torch.Generator(), search.progress)
    return polytope(models, search.families, search.pair.groups, [here, meanwhile], search.pool)


def _descend_unrelaxed(search: PairSearch, meanwhile: Permutations) -> Attempt:
    descent = search.descend(meanwhile, seed=search.settings.seed)
    return search.attempt("weights", "descriptor", descent)


def _start(search: PairSearch, name: str, seed: int) -> Permutations:
    check_start(name, "weights")
    generator = torch.Generator().manual_seed(seed)
    return STARTS[name](search.pair, search.families, generator, search.progress)


def check_start(name: str, method: str) -> None:
    """Raise UsageError for a start that there is not, or that a method cannot take."""
    known = (*STARTS, MIDDLE) if method in SOFT else tuple(STARTS)
    if name not in known:
        hint = suggest(name, known) or f"{', '.join(known)}, or for align a file"
        if name == MIDDLE:
            hint = "soft permutations alone start there: --method frank-wolfe"
        raise UsageError(f"no start is called {name!r}", hint=hint)


METHODS: Mapping[str, Callable[[PairSearch], Iterator[Attempt]]] = {
    "auto": auto,
    "weights": weights,
    "frank-wolfe": frank_wolfe,
    "sinkhorn": sinkhorn,
}

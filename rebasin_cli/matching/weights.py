"""Weight matching: find the permutations that bring one model next to another.

Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), section 3.2 and Algorithm 1.
Deviations: (1) a work list replaces sweeps over all groups; (2) the search starts from
invariant descriptors as well as from the identity, since the identity alone gets stuck in
residual networks; (3) groups inside a parent are solved together with it; (4) progress is
measured relative to the objective, since an absolute 1e-12 is below float32's resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.matching.descent import TOLERANCE, Descent, descend
from rebasin_cli.matching.families import Family, families
from rebasin_cli.matching.kept import Kept
from rebasin_cli.matching.loaded import Loaded, working_dtype
from rebasin_cli.matching.measure import Measured, measure
from rebasin_cli.matching.result import Matching, Status
from rebasin_cli.matching.starts import STARTS, Start, identity_start
from rebasin_cli.matching.terms import Pair
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec import BoundSpec
from rebasin_cli.tensors import TensorSource

VISITS = 200  # of each group; published runs settle within 50 sweeps


@dataclass(frozen=True)
class Settings:
    """How to search.

    starts: names in STARTS, tried in turn; restarts: how many random starts to add.
    jobs: threads; the result does not depend on it. max_memory: bytes of tensors to keep.
    """

    seed: int = 0
    starts: tuple[str, ...] = ("descriptor", "identity")
    restarts: int = 0
    jobs: int = 1
    device: str = "cpu"
    max_memory: int = 4 << 30
    visits: int = VISITS


DEFAULTS = Settings()


@dataclass(frozen=True)
class Attempt:
    """A descent, the start it came from, and the figures it reached."""

    start: str
    descent: Descent
    measured: Measured

    def beats(self, other: Attempt) -> bool:
        """Return whether this attempt is to be preferred: a tie goes to the identity start."""
        mine, theirs = self.measured.objective.after, other.measured.objective.after
        margin = TOLERANCE * max(abs(mine), abs(theirs))
        return mine > theirs + (-margin if self.start == "identity" else margin)


def match_weights(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    settings: Settings = DEFAULTS,
    *,
    movable: frozenset[str] | None = None,
    initial: Permutations | None = None,
    labels: tuple[str, str] = ("reference", "other"),
    progress: Progress = silent,
) -> Matching:
    """Return the permutations of `other` that bring it next to `reference`.

    movable: roots of the families that may move; None: all. initial: where to start from,
    instead of `settings.starts`. labels: what to call the models in an error.
    Raises NotFiniteError if a tensor holds NaN or infinity, UsageError for an unknown start.
    """
    device = torch.device(settings.device)
    dtype = working_dtype(device, reference, other)
    limit = settings.max_memory // 2
    a = Loaded(reference, label=labels[0], device=device, dtype=dtype, limit=limit)
    b = Loaded(other, label=labels[1], device=device, dtype=dtype, limit=limit)
    moving = families(bound, movable)
    with _one_thread_each(), ThreadPoolExecutor(settings.jobs) as pool:
        search = Search(
            Kept(Pair(a, b, bound.groups), limit), bound, moving, settings, pool, progress
        )
        return search.run({"given": initial} if initial else {})


@dataclass(frozen=True)
class Search:
    """One matching in progress: the pair of models and everything that stays the same."""

    kept: Kept
    bound: BoundSpec
    families: Mapping[str, Family]
    settings: Settings
    pool: Executor
    progress: Progress

    @property
    def pair(self) -> Pair:
        return self.kept.pair

    def run(self, given: Mapping[str, Permutations]) -> Matching:
        """Descend from every start and return the best attempt as a matching."""
        here = identity_start(self.pair, self.families, torch.Generator())
        best = Attempt("identity", Descent(here, (), True), self._measure(here))
        if best.measured.distance.before == 0 or not self.families:
            return self._matching(best)
        attempts = self._attempts(given)
        best = next(attempts)
        while best.measured.distance.after > 0 and (attempt := next(attempts, None)):
            best = attempt if attempt.beats(best) else best
        return self._matching(best)

    def _attempts(self, given: Mapping[str, Permutations]) -> Iterator[Attempt]:
        """Yield one descent a start; what was given replaces the named starts."""
        for name, start in given.items():
            yield self._attempt(name, start, seed=self.settings.seed)
        names = () if given else self.settings.starts
        for count, name in enumerate((*names, *["random"] * self.settings.restarts)):
            generator = torch.Generator().manual_seed(self.settings.seed + count)
            start = _start(name)(self.pair, self.families, generator)
            yield self._attempt(name, start, seed=self.settings.seed + count)

    def _attempt(self, name: str, start: Permutations, *, seed: int) -> Attempt:
        roots = list(self.families)
        shuffle = torch.randperm(len(roots), generator=torch.Generator().manual_seed(seed))
        descent = descend(
            self.kept,
            self.families,
            start,
            order=[roots[k] for k in shuffle.tolist()],
            visits=self.settings.visits,
            pool=self.pool,
            progress=self.progress,
        )
        return Attempt(name, descent, self._measure(descent.permutations))

    def _measure(self, permutations: Permutations) -> Measured:
        return measure(self.pair.reference, self.pair.other, self.bound, permutations)

    def _matching(self, best: Attempt) -> Matching:
        end = best.measured.objective.after
        return Matching(
            permutations=best.descent.permutations,
            status=self._status(best),
            objective=best.measured.objective,
            distance=best.measured.distance,
            groups=best.measured.groups,
            history=_history(best.descent.gains, end),
            start=best.start,
        )

    def _status(self, best: Attempt) -> Status:
        if best.measured.distance.before == 0:
            return Status.EQUAL
        if not self.families:
            return Status.NOTHING
        if best.measured.distance.after == 0:
            return Status.EXACT
        if not best.descent.converged:
            return Status.LIMIT
        moved = any(p.moved for p in best.descent.permutations.values())
        return Status.MOVED if moved else Status.STAYED


def _start(name: str) -> Start:
    if name not in STARTS:
        known = ", ".join(STARTS)
        raise UsageError(f"no start is called {name!r}", hint=suggest(name, STARTS) or known)
    return STARTS[name]


def _history(gains: Sequence[float], end: float) -> tuple[float, ...]:
    """Return the objective before the first and after each accepted step."""
    return tuple(accumulate((end - sum(gains), *gains)))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep every product on one thread: its rounding then does not depend on the machine's load.

    The threads of the pool work on different families instead.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Claim: with the extra `fast` assignments of wide networks take less than half the time.

Pairs are matched with lapx and with scipy in the same run, each in a process of its own, on one
thread, after a small match; coordinate descent on perceptrons 784 - width x 4 - 10 with random
weights, the default method on trained networks. "assignments", "CPU s": seconds of all assignments,
and of the whole match; "to scipy": of the first. "objective": reached; both solvers are exact, but
of several best assignments each may take another one, and the descent then goes another way.
--full: the trained networks, and wider ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from unittest.mock import patch

from rebasin_cli.matching.assignment import lapx_solver, scipy_solver
from rebasin_cli.matching.assignment import linear as assignment
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.matching.problem.settings import Settings
from tests.benchmarks.bed.apart import Taken, apart, taken
from tests.benchmarks.bed.clock import Clock, Place
from tests.benchmarks.bed.floor import warm
from tests.benchmarks.bed.networks import NETWORKS, present
from tests.benchmarks.bed.pairs import Pair, perceptrons, trained
from tests.benchmarks.bed.tables import Row, number, table

SOLVERS: Mapping[str, ModuleType] = {"scipy": scipy_solver, "lapx": lapx_solver}
PLACES: Mapping[str, list[Place]] = {"assignments": [(assignment, "columns")]}
HEADS = ("pair", "solver", "assignments", "to scipy", "CPU s", "objective")
Make = Callable[[], Pair]


def matched(make: Make, settings: Settings, solver: str) -> tuple[Taken[Matching], float]:
    """Match with a solver; return what it took, and the seconds of its assignments."""
    warm()
    pair, clock = make(), Clock()
    with patch.object(assignment, "columns", SOLVERS[solver].columns), clock.on(PLACES):
        run = taken(lambda: pair.match(settings))
    return run, clock.spent["assignments"]


def rows(name: str, make: Make, settings: Settings) -> Iterator[Row]:
    """Yield a row for each solver."""
    first = None
    for solver in SOLVERS:
        run, spent = apart(matched, make, settings, solver)
        first = first or spent
        yield (name, solver, number(spent, 2), number(spent / first, 2), number(run.cpu, 2),
               number(run.value.objective.after, 2))  # fmt: skip


def pairs(*, full: bool) -> Iterator[tuple[str, Make, Settings]]:
    """Yield names of pairs, what makes them, and how they are matched."""
    for width in (512, 1024, 2048) if full else (512,):
        yield f"4 x {width}", partial(perceptrons, width), Settings(method="weights")
    for network in NETWORKS if full and present() else ():
        yield network.name, partial(trained, network, (0, 1)), Settings()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="trained networks, and wider ones")
    full = parser.parse_args().full
    print(table(HEADS, [row for pair in pairs(full=full) for row in rows(*pair)]))


if __name__ == "__main__":
    main()

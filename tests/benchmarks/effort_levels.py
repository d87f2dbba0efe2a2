"""Claim: with the default effort no other tool finds better permutations, in a tenth of the time of
the best; with `--effort quick` they are as good as coordinate descent's, and sooner.

Pairs of networks trained apart, seeds 0 and 1 (--full: also 0 and 2, and 1 and 2), matched with
each effort, one thread. "objective": the sum of inner products in float64 over all floating
tensors that are not running statistics; "gain": that less the objective of the models as they are.
"CPU s": of the matching alone, after a small match, without reading the files; "beyond MB": the
peak of the process less that before the match. "searched": the method and start that won. Other
tools: published figures for seeds 0 and 1 (peers.yaml), the median of three runs; in the next
column the best of them. "to the best": over the highest objective that another tool has reached
without breaking the function of the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.matching.problem.settings import EFFORTS, Settings
from tests.benchmarks.bed.apart import Taken, apart, taken
from tests.benchmarks.bed.floor import warm
from tests.benchmarks.bed.networks import SEEDS, Network, chosen, peers, require
from tests.benchmarks.bed.pairs import trained
from tests.benchmarks.bed.tables import Row, number, table

MB = 1e6
HEADS = ("network", "seeds", "tool", "objective", "best of 3", "gain", "to the best", "CPU s",
         "beyond MB", "searched")  # fmt: skip
Figures = Mapping[str, Any]


def matched(network: Network, seeds: tuple[int, int], effort: str) -> Taken[Matching]:
    """Match a pair and return what it took; to be called in a process of its own."""
    warm()
    pair = trained(network, seeds)
    return taken(lambda: pair.match(Settings(effort=effort)))


def row(network: Network, seeds: tuple[int, int], effort: str, best: float | None) -> Row:
    """Return the row of one effort; best: of the other tools on this pair, where it is known."""
    run = apart(matched, network, seeds, effort)
    found = run.value
    value = found.objective.after
    label = "-".join(map(str, seeds))
    return (network.name, label, f"rebasin, {effort}", number(value, 1), "",
            number(value - found.objective.before, 1), number(best and value / best, 4),
            number(run.cpu, 2), number((run.peak - run.before) / MB, 1),
            f"{found.method}, {found.start}")  # fmt: skip


def peer_row(network: str, tool: str, figures: Figures, naive: float, best: float) -> Row:
    value = figures["objective"]
    name = f"{tool}, published" + " (function lost)" * bool(figures.get("broken"))
    return (network, "0-1", name, number(value, 1), number(figures.get("best"), 1),
            number(value - naive, 1), number(value / best, 4), number(figures.get("cpu"), 2),
            "", "")  # fmt: skip


def rows(networks: Sequence[Network], pairs: list[tuple[int, int]]) -> Iterator[Row]:
    """Yield all rows: those of a network, then the figures of the other tools."""
    published = peers("barrier")
    for network in networks:
        tools = published[network.name]
        best = max(reached(figures) for figures in tools.values() if not figures.get("broken"))
        for seeds in pairs:
            for effort in EFFORTS:
                yield row(network, seeds, effort, best if seeds == (0, 1) else None)
        naive = tools["naive"]["objective"]
        for tool, figures in tools.items():
            yield peer_row(network.name, tool, figures, naive, best)


def reached(figures: Figures) -> float:
    return max(figures["objective"], figures.get("best", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all networks and pairs")
    full = parser.parse_args().full
    require()
    pairs = list(combinations(SEEDS, 2)) if full else [(0, 1)]
    print(table(HEADS, list(rows(chosen(full=full), pairs))))


if __name__ == "__main__":
    main()

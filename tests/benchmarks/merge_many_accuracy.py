"""Claim: three networks trained apart merge into one that works, where permutations can do it.

The real command merges seeds 0, 1 and 2 of five networks: as they are (`none`), and each aligned
to all others in turn (`many`); --full adds each aligned to the first (`star`), and `many` with two
more seeds of the search. Loss and accuracy are of the merged file, on test data; "reset": with
BatchNorm statistics measured anew on training images. "pairs": the sum over pairs of inner products
of the aligned models in float64. It is computed from the merged file alone, since a permutation
changes no norm: (|3 merged|^2 - sum |model|^2) / 2. CPU seconds: of the whole command on one
thread without its start. Published: other tools' figures (peers.yaml).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import State, judge, square, state_of
from tests.benchmarks.bed.networks import SEEDS, Network, chosen, peers, require
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("network", "merge", "loss", "accuracy", "accuracy, reset", "pairs", "rounds", "CPU s")
SHORT = {name: ("--strategy", name) for name in ("none", "many")}
SEEDED = {f"many, seed {seed}": ("--strategy", "many", "--seed", str(seed)) for seed in (1, 2)}
FULL = {**SHORT, "star": ("--strategy", "star"), **SEEDED}


def merge(network: Network, options: Sequence[str]) -> tuple[State, dict[str, Any], float]:
    """Return the merged model, what the command said of it, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "merged.safetensors"
        files = [str(network.path(seed)) for seed in SEEDS]
        said = say(["merge", *files, "-o", str(out), "-j", "1", *options, *network.options])
        return state_of(out), said.result, said.cpu


def merged_row(network: Network, name: str, options: Sequence[str], norms: float) -> Row:
    """Return the row of one merge; norms: the sum of the models' squared norms."""
    state, said, cpu = merge(network, options)
    plain = judge(network, state)
    reset = judge(network, state, reset=True).accuracy if network.batch_norm else None
    pairs = (len(SEEDS) ** 2 * square(state) - norms) / 2
    cells = number(plain.loss), number(plain.accuracy, 4), number(reset, 4), number(pairs, 1)
    return (network.name, f"rebasin {name}", *cells, str(said["rounds"] or ""), number(cpu, 2))


def peer_row(network: str, tool: str, figures: Mapping[str, Any]) -> Row:
    cells = [number(figures[name], digits) for name, digits in (("loss", 3), ("accuracy", 4))]
    cells += [number(figures.get("accuracy_reset"), 4), number(figures.get("objective"), 1)]
    name = f"{tool}, published" + " (function lost)" * bool(figures.get("broken"))
    return (network, name, *cells, "", "")


def rows(networks: Sequence[Network], strategies: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Yield the rows of every network: our merges, then the figures of the other tools."""
    for network in networks:
        norms = sum(square(state_of(network.path(seed))) for seed in SEEDS)
        for name, options in strategies.items():
            yield merged_row(network, name, options, norms)
        for tool, figures in peers("merge")[network.name].items():
            yield peer_row(network.name, tool, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all networks, `star`, and more seeds")
    full = parser.parse_args().full
    require()
    print(table(HEADS, list(rows(chosen(full=full), FULL if full else SHORT))))


if __name__ == "__main__":
    main()

"""Claim: on networks trained apart, `rebasin align` cuts the distance and the loss barrier for the
same function; and how far, beside other tools.

For each of five networks the real command aligns seed 1 with seed 0 (--full: all three pairs).
Objective and distance are computed here, from the files, in float64. The barrier is the most by
which the loss on the line between the models rises above its chord: at 3 points, which is the
middle, or at 11 with --full, as in the figures of the other tools (peers.yaml). "reset": with
BatchNorm statistics measured anew on training images. CPU seconds: of the whole command on one
thread without the start of the interpreter, so reading and writing are in it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import (
    Judged,
    Line,
    State,
    difference,
    distance,
    judge,
    objective,
    state_of,
    walk,
)
from tests.benchmarks.bed.networks import SEEDS, Network, chosen, peers, require
from tests.benchmarks.bed.tables import Row, number, table

SHORT_POINTS, FULL_POINTS = 3, 11
TRANSFORMERS = ("vit_small", "char_gpt")
HEADS = ("network", "pair", "tool", "objective", "distance", "outputs change", "accuracy",
         "barrier", "middle acc", "barrier, reset", "middle acc, reset", "CPU s")  # fmt: skip


@dataclass(frozen=True)
class Lines:
    """The line between two models, and the same with statistics reset where there are any."""

    plain: Line
    reset: Line | None


@dataclass(frozen=True)
class Pair:
    """What aligning one pair of models did; `naive` and `aligned` are the lines between them."""

    network: Network
    seeds: tuple[int, int]
    objective: tuple[float, float]
    distance: tuple[float, float]
    change: float
    accuracy: tuple[float, float]
    naive: Lines
    aligned: Lines
    cpu: float

    @property
    def label(self) -> str:
        return "-".join(map(str, self.seeds))


def measure(network: Network, seeds: tuple[int, int], points: int) -> Pair:
    """Align one pair by the command line and judge what it wrote."""
    a, b = (state_of(network.path(seed)) for seed in seeds)
    moved, cpu = aligned(network, seeds)
    ends = judge(network, a), judge(network, b)
    return Pair(
        network,
        seeds,
        objective=(objective([a, b]), objective([a, moved])),
        distance=(distance(a, b), distance(a, moved)),
        change=difference(network, b, moved),
        accuracy=(ends[1].accuracy, judge(network, moved).accuracy),
        naive=lines(network, (a, b), ends, points),
        aligned=lines(network, (a, moved), ends, points),
        cpu=cpu,
    )


def aligned(network: Network, seeds: tuple[int, int]) -> tuple[State, float]:
    """Return the second model as `rebasin align` writes it, and the CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "aligned.safetensors"
        files = [str(network.path(seed)) for seed in seeds]
        said = say(["align", *files, "-o", str(out), "--jobs", "1", *network.options])
        return state_of(out), said.cpu


def lines(
    network: Network, ends: tuple[State, State], judged: tuple[Judged, Judged], points: int
) -> Lines:
    """Walk between two models, with reset statistics too where the network has any."""
    plain = walk(network, ends, judged, points)
    if not network.batch_norm:
        return Lines(plain, None)
    return Lines(plain, walk(network, ends, judged, points, reset=True))


def rows_of(pair: Pair) -> Iterator[Row]:
    """Yield the table's rows of one pair: as trained, and aligned."""
    name, seeds = pair.network.name, pair.label
    was, now = pair.accuracy
    yield (name, seeds, "naive", number(pair.objective[0], 1), number(pair.distance[0], 2), "",
           number(was, 4), *line_cells(pair.naive), "")  # fmt: skip
    yield (name, seeds, "rebasin", number(pair.objective[1], 1), number(pair.distance[1], 2),
           f"{pair.change:.0e}", number(now, 4), *line_cells(pair.aligned),
           number(pair.cpu, 2))  # fmt: skip


def line_cells(lines: Lines) -> tuple[str, str, str, str]:
    plain, reset = lines.plain, lines.reset
    return (
        number(plain.barrier),
        number(plain.middle.accuracy),
        number(reset.barrier if reset else None),
        number(reset.middle.accuracy if reset else None),
    )


def peer_row(network: str, tool: str, figures: Mapping[str, Any]) -> Row:
    """Return the row of another tool; its figures are those of seeds 0 and 1."""
    change = "function lost" if figures.get("broken") else ""
    lines = ("barrier", "middle", "barrier_reset", "middle_reset")
    cells = [number(figures.get(name)) for name in lines]
    value, cpu = number(figures["objective"], 1), number(figures.get("cpu"), 2)
    return (network, "0-1", f"{tool}, published", value, "", change, "", *cells, cpu)


def rows(pairs: list[Pair]) -> Iterator[Row]:
    """Yield all rows: after the pairs of a network, the figures of the other tools."""
    published = peers("barrier")
    for name in dict.fromkeys(pair.network.name for pair in pairs):
        for pair in pairs:
            if pair.network.name == name:
                yield from rows_of(pair)
        for tool, figures in published[name].items():
            yield peer_row(name, tool, figures)


def ratio(pairs: list[Pair]) -> float:
    """Return the median of barriers aligned / naive, with reset statistics where there are any."""
    chosen = [(p.aligned.reset or p.aligned.plain, p.naive.reset or p.naive.plain) for p in pairs]
    return median(now.barrier / was.barrier for now, was in chosen)


def verdict(pairs: list[Pair]) -> Iterator[str]:
    """Yield the sentences under the table."""
    kept = sum(pair.accuracy[0] == pair.accuracy[1] for pair in pairs)
    yield f"Same accuracy after alignment in {kept} of {len(pairs)} pairs; largest change of an "
    yield f"output in float64: {max(pair.change for pair in pairs):.0e}.\n"
    cut = median(pair.distance[1] / pair.distance[0] for pair in pairs)
    yield f"Distance after / before alignment: median {cut:.3f}.\n"
    small = [pair for pair in pairs if pair.network.name in TRANSFORMERS]
    others = [pair for pair in pairs if pair not in small]
    yield "Barrier after / before alignment (reset where BatchNorm is): median "
    yield f"{ratio(others):.2f} on the MLP, VGG and ResNet, "
    yield f"{ratio(small):.2f} on the transformers.\n"
    normed = [pair for pair in pairs if pair.aligned.reset]
    higher = sum(pair.aligned.plain.barrier > pair.naive.plain.barrier for pair in normed)
    yield "With the BatchNorm statistics of the files, alignment hardly shows: the barrier is "
    yield f"higher than without it in {higher} of {len(normed)} pairs.\n"
    yield from confession(small)


def confession(small: list[Pair]) -> Iterator[str]:
    """Yield what the figures say about the transformers."""
    for pair in small:
        naive, aligned = pair.naive.plain, pair.aligned.plain
        yield f"{pair.network.name}, seeds {pair.label}: the loss rises by "
        yield f"{naive.barrier:.2f} before and {aligned.barrier:.2f} after alignment, accuracy in "
        yield f"the middle {naive.middle.accuracy:.3f} and {aligned.middle.accuracy:.3f}, where a "
        yield f"model by itself has {pair.accuracy[0]:.3f}.\n"
    if any(usable(p.aligned.plain.middle.accuracy, p) for p in small):
        yield "The middle of a small transformer is usable after permutations alone.\n"
        return
    yield "So permutations lower the barrier of these small transformers and do not remove it: the "
    yield "middle stays unusable"
    tools = [(pair, row) for pair in small for row in peers("barrier")[pair.network.name].values()]
    everyone = not any(usable(row["middle"], pair) for pair, row in tools)
    yield ", as it does for every other tool above.\n" if everyone else ".\n"


def usable(accuracy: float, pair: Pair) -> bool:
    """Return whether an accuracy comes within a tenth of the model's own."""
    return accuracy > 0.9 * pair.accuracy[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="all networks and pairs, 11 points each"
    )
    full = parser.parse_args().full
    require()
    seeds = list(combinations(SEEDS, 2)) if full else [(0, 1)]
    points = FULL_POINTS if full else SHORT_POINTS
    pairs = [measure(network, pair, points) for network in chosen(full=full) for pair in seeds]
    print(f"Barriers at {points} points; published ones at {FULL_POINTS}.\n")
    print(table(HEADS, list(rows(pairs))))
    print("\n" + "".join(verdict(pairs)))


if __name__ == "__main__":
    main()

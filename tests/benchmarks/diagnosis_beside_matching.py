"""Claim: figures of all units cost a tenth of a matching, and a sure start ends the search.

Two llamas with random weights, one the other with every group permuted and noise of half its size
on top (bed/planted_llamas.py), aligned by the real command, started from cold. "to quick": CPU
seconds over those of the first row. "cosine": of the matrices of both models once aligned; the
planted orders leave .894. --full: 75 M
parameters in float32, and 1.1 B in bfloat16 within 6 GB, on 7 GB of disk; that takes CPU minutes by
the dozen. Peak: the largest resident set of the process, 700 MB of which are its packages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bed.commands import COMMAND, Spent, spend
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.rotated_memory import parameters, products

WRITER = Path(__file__).parent / "bed" / "planted_llamas.py"
QUICK = ("--effort", "quick", "--quiet")
OPTIONS = (QUICK, ("--quiet",), (*QUICK, "--json"), (*QUICK, "--verbose"))
HEADS = ("parameters", "options", "wall s", "CPU s", "to quick", "peak MB", "cosine")
MB = 1e6


@dataclass(frozen=True)
class Size:
    """A llama: width, layers, vocabulary, heads of keys and values, dtype; how it is aligned."""

    facts: tuple[int, int, int, int]
    dtype: str
    runs: Sequence[tuple[str, ...]]


SHORT = (Size((256, 4, 4096, 4), "float32", OPTIONS),)
FULL = (
    Size((640, 12, 12000, 10), "float32", OPTIONS),
    Size((2048, 22, 32000, 4), "bfloat16", [(*QUICK, "--max-memory", "6GB")]),
)


def rows(size: Size, folder: Path) -> Iterator[Row]:
    """Yield a row for each run."""
    spend([sys.executable, str(WRITER), str(folder), *map(str, size.facts), size.dtype])
    first = None
    for options in size.runs:
        spent = align(folder, options)
        first = first or spent
        inner, mine, theirs = products(folder / "a", folder / "out")
        yield (
            number(parameters(folder / "a") / 1e6, 0) + " M",
            " ".join(options),
            *(number(value, 1) for value in (spent.wall, spent.cpu)),
            number(spent.cpu / first.cpu, 2),
            number(spent.peak / MB, 0),
            number(inner / (mine * theirs) ** 0.5, 4),
        )


def align(folder: Path, options: Sequence[str]) -> Spent:
    pair, out = (str(folder / "a"), str(folder / "b")), ("-o", str(folder / "out"), "--force")
    return spend([*COMMAND, "align", *pair, *out, "--no-check", *options])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="75 M and 1.1 B parameters")
    found = []
    for size in FULL if parser.parse_args().full else SHORT:
        with tempfile.TemporaryDirectory() as name:
            found += list(rows(size, Path(name)))
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

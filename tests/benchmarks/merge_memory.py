"""Claim: `rebasin merge` of many checkpoints takes the memory of merging two.

Perceptrons of 12 MB (bed/perceptrons.py) are merged 2 and 6 at a time by the real command, started
from cold, on one thread. The default strategy is `many` up to 8 models, else `star`; "none, ties"
and the like: combined as they are, against a base. --full: 37 MB, 2, 5 and 20 at a time, .pt files
too, and `star` for all numbers. --combined: 49 MB, 3 and 20 at a time in every way to combine, as
they are and, of some, aligned to the base. Peak: the largest resident set of
the process, the pages of files that it has mapped included. "beyond start": less that of a process
that only imports the packages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.merging.combination import COMBINATIONS, FROM_BASE
from tests.benchmarks.bed.commands import COMMAND, Spent, spend
from tests.benchmarks.bed.tables import Row, number, table

WRITER = Path(__file__).parent / "bed" / "perceptrons.py"
MB = 1e6
QUIET = ("--quiet", "--jobs", "1")
IMPORTS = (sys.executable, "-c", "import torch, safetensors, rebasin_cli.commands.merge.run")
HEADS = ("files", "strategy", "models", "peak MB", "beyond start MB", "beyond, to 2",
         "peak, to 2", "seconds", "CPU s")  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Merges of growing numbers of models, all else equal; strategy None: the default.

    combine: other than the mean: against a base, which is behind the models.
    """

    ending: str
    strategy: str | None
    counts: tuple[int, ...]
    combine: str | None = None

    @property
    def options(self) -> list[str]:
        found = ["--strategy", self.strategy] if self.strategy else []
        return [*found, "--combine", self.combine] if self.combine else found

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.strategy or "default", self.combine)))


ALL, FEW_AND_MANY = (2, 5, 20), (3, 20)
COMBINED = (
    *(Series("safetensors", "none", FEW_AND_MANY, combine) for combine in COMBINATIONS),
    *(Series("safetensors", "star", FEW_AND_MANY, combine) for combine in ("ties", "slerp-n")),
)
SHORT = (Series("safetensors", None, (2, 6)), Series("safetensors", "none", (2, 6), "ties"))
FULL = tuple(Series(ending, way, ALL) for ending in ("safetensors", "pt") for way in (None, "star"))
SHORT_INPUTS, FULL_INPUTS, COMBINED_INPUTS = 2048, 8192, 11264


def rows(series: Series, folder: Path, start: int) -> Iterator[Row]:
    """Yield a row for each number of models; start: the peak of the imports alone."""
    spent = {count: merge(series, folder, count) for count in series.counts}
    base = spent[series.counts[0]].peak
    for count, one in spent.items():
        beyond, growth = one.peak - start, (one.peak - start) / (base - start)
        yield (
            f".{series.ending}",
            series.name,
            str(count),
            *(number(value / MB, 0) for value in (one.peak, beyond)),
            *(number(value, 2) for value in (growth, one.peak / base)),
            *(number(value, 1) for value in (one.wall, one.cpu)),
        )


def merge(series: Series, folder: Path, count: int) -> Spent:
    """Merge the first models of a folder into a file that is removed again."""
    models = sorted(folder.glob(f"model-*.{series.ending}"))[:count]
    out = folder / f"merged.{series.ending}"
    options = series.options
    if series.combine in FROM_BASE:
        options += ["--base", str(sorted(folder.glob("model-*"))[-1])]
    spent = spend([*COMMAND, "merge", *map(str, models), "-o", str(out), *QUIET, *options])
    out.unlink()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="larger models, more strategies")
    parser.add_argument("--combined", action="store_true", help="every way to combine")
    given = parser.parse_args()
    chosen, inputs = (FULL, FULL_INPUTS) if given.full else (SHORT, SHORT_INPUTS)
    if given.combined:
        chosen, inputs = COMBINED, COMBINED_INPUTS
    most = max(max(series.counts) for series in chosen) + 1  # and a base
    found = []
    with tempfile.TemporaryDirectory() as name:
        start = spend(IMPORTS).peak
        for ending in dict.fromkeys(series.ending for series in chosen):
            folder = Path(name, ending)
            folder.mkdir()
            spend([sys.executable, str(WRITER), str(folder), str(most), ending, str(inputs)])
            for series in chosen:
                if series.ending == ending:
                    found += list(rows(series, folder, start))
            for model in folder.iterdir():
                model.unlink()
    print(f"Start (imports alone): {start / MB:.0f} MB.\n")
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

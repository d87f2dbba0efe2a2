"""Claim: two single files of Stable Diffusion of the published size are aligned within a budget.

A random file in float16 and a permuted copy with noise (bed/planted_files.py) are aligned
by the real command, started from cold, `--effort quick`, within --max-memory 6GB. "plan":
`memory` of --dry-run; the peak is that of the process, 0.57 GB of which are its start. "cosine": of
all matrices once aligned; the planted orders leave .894. Without arguments: SD 1, 1.0 B parameters,
in about five minutes of CPU; kinds are chosen by name (sd1, sd2, sdxl, sdxl_refiner).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bed.commands import COMMAND, say, spend
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.rotated_memory import parameters, products

WRITER = Path(__file__).parent / "bed" / "planted_files.py"
MEMORY = ("--max-memory", "6GB")
HEADS = ("file", "parameters", "wall s", "CPU s", "plan MB", "peak MB", "cosine")
MB = 1e6


def rows(kind: str, folder: Path) -> Iterator[Row]:
    """Yield a row; tensors are read here when the command is over."""
    spend([sys.executable, str(WRITER), str(folder), kind])
    a, b, out = (folder / f"{name}.safetensors" for name in ("a", "b", "out"))
    align = ("align", str(a), str(b), "-o", str(out), "--effort", "quick", "--no-check", *MEMORY)
    plan = say([*align, "--dry-run"]).events[0]["memory"]
    spent = spend([*COMMAND, *align, "--quiet"])
    inner, mine, theirs = products(a, out)
    yield (
        kind,
        number(parameters(a) / 1e6, 0) + " M",
        *(number(value, 0) for value in (spent.wall, spent.cpu, plan / MB, spent.peak / MB)),
        number(inner / (mine * theirs) ** 0.5, 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["sd1"])
    found = []
    for kind in parser.parse_args().kinds:
        with tempfile.TemporaryDirectory() as name:
            found += list(rows(kind, Path(name)))
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

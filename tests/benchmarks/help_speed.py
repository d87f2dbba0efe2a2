"""Claim: `rebasin --help` answers in under 0.5 s, because it imports no heavy package.

Wall times of whole processes: the interpreter alone and `rebasin --help` (median, fastest and
slowest of 3 runs, 20 with --full); `rebasin align --help`, `import torch`, and a plan, `rebasin
align --dry-run` on two small files (1 run, 10 with --full). On a busy machine CPU seconds, beside
them, say more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.bed.commands import COMMAND, spend
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("command", "runs", "median s", "fastest", "slowest", "CPU s", "to the interpreter")
WIDTHS = (64, 32, 32, 10)


def model(path: Path) -> Path:
    """Write a small perceptron under the names of nn.Sequential."""
    rng = np.random.default_rng(0)
    state = {}
    for layer, (read, written) in enumerate(pairwise(WIDTHS)):
        state[f"{2 * layer}.weight"] = rng.normal(size=(written, read)).astype(np.float32)
        state[f"{2 * layer}.bias"] = np.zeros(written, np.float32)
    save_file(state, path)
    return path


def timed(name: str, command: Sequence[str], runs: int) -> tuple[str, list[float], float]:
    """Return the name, wall seconds of all runs, and the median CPU seconds."""
    spent = [spend(command) for _ in range(runs)]
    return name, [one.wall for one in spent], median(one.cpu for one in spent)


def row(name: str, walls: list[float], cpu: float, base: float) -> Row:
    cells = [number(value) for value in (median(walls), min(walls), max(walls), cpu)]
    return (name, str(len(walls)), *cells, f"{median(walls) / base:.0f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="20 and 10 runs")
    many, few = (20, 10) if parser.parse_args().full else (3, 1)
    with tempfile.TemporaryDirectory() as folder:
        pair = [str(model(Path(folder, f"{name}.safetensors"))) for name in "ab"]
        measured = [
            timed("python -c pass", [sys.executable, "-c", "pass"], many),
            timed("rebasin --help", [*COMMAND, "--help"], many),
            timed("rebasin align --help", [*COMMAND, "align", "--help"], few),
            timed("python -c 'import torch'", [sys.executable, "-c", "import torch"], few),
            timed("rebasin align --dry-run", [*COMMAND, "align", *pair, "--dry-run"], few),
        ]
    base = median(measured[0][1])
    print(table(HEADS, [row(*one, base) for one in measured]))


if __name__ == "__main__":
    main()

"""Claim: help answers in under 0.5 s, and work begins at most 0.4 s after torch is imported.

Seconds of whole processes, which take turns (the median of 3 runs, of 10 with --full): those that
need no tensors, and plans of commands on two small files (--dry-run: all that is done before any
tensor is read), beside the interpreter alone and `import torch`. "to the interpreter": a ratio of
wall times in this run; "above torch": what a command takes more than the import, in seconds of wall
time and of the CPU, which say more on a busy machine. Bytecode is there, as an installation leaves
it; without it, the first start compiles every module.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.bed.commands import COMMAND, Spent, spend
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("command", "median s", "CPU s", "to the interpreter", "above torch s", "above torch CPU s")
INTERPRETER, TORCH = "python -c pass", "python -c 'import torch'"
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


def medians(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, tuple[float, float]]:
    """Return the median wall and CPU seconds of each command; they take turns."""
    for command in commands.values():
        spend(command)  # writes bytecode
    spent: dict[str, list[Spent]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            spent[name].append(spend(command))
    return {
        name: (median(one.wall for one in runs), median(one.cpu for one in runs))
        for name, runs in spent.items()
    }


def rows(found: Mapping[str, tuple[float, float]]) -> list[Row]:
    interpreter, torch = found[INTERPRETER][0], found[TORCH]
    return [
        (
            name,
            number(wall),
            number(cpu),
            f"{wall / interpreter:.0f}x",
            *(f"{now - base:.2f}" for now, base in zip((wall, cpu), torch, strict=True)),
        )
        for name, (wall, cpu) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10 runs")
    runs = 10 if parser.parse_args().full else 3
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder  # nothing is left behind
        pair = [str(model(Path(folder, f"{name}.safetensors"))) for name in "ab"]
        plans = {"align": pair, "merge": pair, "verify": pair, "inspect": pair[:1]}
        commands = {
            INTERPRETER: [sys.executable, "-c", "pass"],
            "rebasin --help": [*COMMAND, "--help"],
            "rebasin align --help": [*COMMAND, "align", "--help"],
            "rebasin spec list": [*COMMAND, "spec", "list"],
            TORCH: [sys.executable, "-c", "import torch"],
            **{
                f"rebasin {name} --dry-run": [*COMMAND, name, *files, "--dry-run"]
                for name, files in plans.items()
            },
        }
        print(table(HEADS, rows(medians(commands, runs))))


if __name__ == "__main__":
    main()

"""Claim: `related` takes at most twice as long as aligning the same pair, whatever they are.

Beside a model with random weights: a relative (its units in another order, noise of half their
standard deviation on all weights), a rotated relative of llamas, a model drawn anew, and the
relative's weights as they lie (noise, nothing moved). Perceptrons (bed/wide_perceptrons.py) and
llamas (bed/planted_llamas.py, bed/rotated_llamas.py). Each by real commands, from cold, on one
thread, with 8 GB: `align --effort quick`, of rotated ones `align --symmetry orthogonal`, and
`related`. "to that": CPU seconds of `related` over those of `align`. Peaks: of `related`, 700 MB of
which are its packages. --full: 80 M and 100 M parameters instead of 3 M and 5 M.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bed.commands import COMMAND, Spent, spend
from tests.benchmarks.bed.tables import Row, number, table

BED = Path(__file__).parent / "bed"
MEANS = ("--jobs", "1", "--max-memory", "8GB", "--quiet")
QUICK = ("--effort", "quick", "--no-check", "--force")
ORTHOGONAL = ("--symmetry", "orthogonal", "--no-check", "--force")
RELATED, INDEPENDENT = "related by training", "independent"
MB = 1e6
SIZES = {"perceptron": ((900,), (5000,)), "llama": ((256, 4, 4096), (768, 12, 16384))}
HEADS = ("models", "M", "b is", "said", "right", "score", "null", "align CPU s",
         "related CPU s", "to that", "peak MB")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pair of models, how it is aligned, and what it is."""

    kind: str
    name: str
    pair: tuple[Path, Path]
    aligning: Sequence[str]
    expected: str


def perceptrons(folder: Path, width: int) -> Iterator[Case]:
    """Yield pairs of perceptrons with four hidden layers."""
    spend([sys.executable, str(BED / "wide_perceptrons.py"), str(folder), str(width), "4"])
    a, b, c, d = (folder / f"{name}.safetensors" for name in "abcd")
    yield Case("perceptron", "permuted, noise", (a, b), QUICK, RELATED)
    yield Case("perceptron", "noise alone", (a, d), QUICK, RELATED)
    yield Case("perceptron", "drawn anew", (a, c), QUICK, INDEPENDENT)


def llamas(folder: Path, width: int, layers: int, words: int) -> Iterator[Case]:
    """Yield pairs of llamas."""
    sizes = [str(width), str(layers), str(words)]
    planted, rotated = folder / "planted", folder / "rotated"
    for place, program, more in (
        (planted, "planted_llamas.py", ["4", "bfloat16"]),
        (rotated, "rotated_llamas.py", []),
    ):
        place.mkdir()
        spend([sys.executable, str(BED / program), str(place), *sizes, *more])
    yield Case("llama", "permuted, noise", (planted / "a", planted / "b"), QUICK, RELATED)
    yield Case("llama", "rotated, noise", (rotated / "a", rotated / "b"), ORTHOGONAL, RELATED)


def judged(case: Case, folder: Path) -> Row:
    """Return what `related` says of a pair, and what both commands take."""
    a, b = map(str, case.pair)
    aligned = spend([*COMMAND, "align", a, b, *case.aligning, "-o", str(folder / "o"), *MEANS])
    said, spent = told(["related", a, b, "--json", *MEANS], folder / "said.json")
    right = "yes" if said["relation"] == case.expected else f"NO, {case.expected}"
    return (case.kind, number(elements(case.pair[0]) / 1e6, 0), case.name, said["relation"], right,
            number(said["score"]), number(said["null"]), number(aligned.cpu, 1),
            number(spent.cpu, 1), number(spent.cpu / aligned.cpu, 2),
            number(spent.peak / MB, 0))  # fmt: skip


def told(arguments: Sequence[str], file: Path) -> tuple[dict[str, Any], Spent]:
    """Run the command and return the event of its pair, and what it took."""
    spent = spend(["sh", "-c", f'exec "$@" > {file}', "sh", *COMMAND, *arguments])
    return json.loads(file.read_text("utf-8").splitlines()[0]), spent


def elements(path: Path) -> float:
    """Return the count of weights of a file, or of the one in a folder."""
    file = path / "model.safetensors" if path.is_dir() else path
    return file.stat().st_size / (2 if path.is_dir() else 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="80 M and 100 M parameters")
    parser.add_argument("--kind", choices=SIZES, help="these alone")
    asked = parser.parse_args()
    found = []
    for kind, make in (("perceptron", perceptrons), ("llama", llamas)):
        if asked.kind not in (None, kind):
            continue
        sizes = SIZES[kind][asked.full]
        with tempfile.TemporaryDirectory() as name:
            for case in make(Path(name), *sizes):
                found.append(judged(case, Path(name)))
                print(" | ".join(found[-1]), flush=True)
    print()
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

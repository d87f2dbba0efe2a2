"""Claim: orthogonal maps of models beyond memory take that of a layer, and are the same.

A random llama in bfloat16 and a rotated copy of it with noise (bed/rotated_llamas.py) are aligned
by the real command, started from cold, on one thread: with both in memory, in float64, and
streamed. --full: 100 M parameters instead of 5 M, and 1.1 B, streamed alone, on 9 GB of disk. Peak:
the largest resident set of the process, 700 MB of which are its packages. "cosine": of what is
written, whose norms are folded; the noise leaves .894. "apart": |A - B| / |A| of what both ways
write.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from torch import Tensor

from rebasin_cli.checkpoint.reader import open_checkpoint
from tests.benchmarks.bed.commands import COMMAND, Spent, spend
from tests.benchmarks.bed.tables import Row, number, table

WRITER = Path(__file__).parent / "bed" / "rotated_llamas.py"
ORTHOGONAL = ("--symmetry", "orthogonal", "--no-check", "--force", "--quiet")
HEADS = ("parameters", "--max-memory", "peak MB", "CPU s", "cosine", "apart")
MB = 1e6


@dataclass(frozen=True)
class Size:
    """A llama: its width, layers and vocabulary, and what may be used in each run."""

    width: int
    layers: int
    vocabulary: int
    memory: tuple[str, ...]


SHORT = (Size(256, 4, 4096, ("64GB", "100MB")),)
FULL = (Size(768, 12, 16384, ("64GB", "1GB")), Size(2048, 22, 32000, ("2GB",)))


def rows(size: Size, folder: Path) -> Iterator[Row]:
    """Yield a row for each run; all are over before tensors are read here."""
    facts = (str(size.width), str(size.layers), str(size.vocabulary))
    spend([sys.executable, str(WRITER), str(folder), *facts])
    spent = {memory: align(folder, memory) for memory in size.memory}
    for memory, one in spent.items():
        inner, mine, theirs = products(folder / "a.folded", folder / memory)
        both, first, second = products(folder / size.memory[0], folder / memory)
        yield (
            number(parameters(folder / "a") / 1e6, 0) + " M",
            memory,
            *(number(value, 0) for value in (one.peak / MB, one.cpu)),
            number(inner / sqrt(mine * theirs), 4),
            f"{sqrt(max(first + second - 2 * both, 0) / first):.1g}",
        )


def align(folder: Path, memory: str) -> Spent:
    pair = (str(folder / "a"), str(folder / "b"))
    out = ("-o", str(folder / memory), "--max-memory", memory)
    return spend([*COMMAND, "align", *pair, *ORTHOGONAL, *out, "--jobs", "1"])


def parameters(path: Path) -> int:
    with open_checkpoint(path) as model:
        return sum(model.info(name).numel for name in model.names())


def products(one: Path, other: Path) -> tuple[float, float, float]:
    """Return <A, B>, <A, A> and <B, B> of the weights of two models, a tensor at a time."""
    with open_checkpoint(one) as first, open_checkpoint(other) as second:
        weights = [name for name in first.names() if len(first.info(name).shape) > 1]
        pairs = ((first.load(name).double(), second.load(name).double()) for name in weights)
        each = [(_inner(a, b), _inner(a, a), _inner(b, b)) for a, b in pairs]
    inner, mine, theirs = map(sum, zip(*each, strict=True))
    return inner, mine, theirs


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="100 M and 1.1 B parameters")
    found = []
    for size in FULL if parser.parse_args().full else SHORT:
        with tempfile.TemporaryDirectory() as name:
            found += list(rows(size, Path(name)))
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

"""Claim: time grows as the matrix products and one assignment for each visit do; memory as a pair.

Coordinate descent from the default starts (`--method weights`) on random weights: perceptrons 784 -
width x 4 - 10 of growing width; residual perceptrons 128 wide of growing depth (blocks of two
layers); and merges of 2 models and more, perceptrons 512 wide of one basin, from files. Each row in
a process of its own, on one thread, after a small match. "visits": of all families, in all
descents and matches. "products", "assignments": what those visits take if each were one product
for every block of the family and one exact assignment, timed where the search ended, on contiguous
arrays; a search that keeps what did not change can take less. "to that": CPU seconds over the sum
of both. "beyond MB": the peak of the process less that before the match, with the models loaded; of
a merge none is, and the pages of files that it has mapped are included. "model MB": one model. CPU
seconds also hold what a search does once: descriptors and their assignments, the objective of each
start, and the figures. --full: the whole series; the last width takes minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.matching.many.match_many import Alignment, ManyRequest
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, TensorSource, infos
from tests.benchmarks.bed.apart import Taken, apart, taken
from tests.benchmarks.bed.floor import Floor, counted, floor_of, warm
from tests.benchmarks.bed.pairs import Pair, State, perceptrons, residual_perceptrons
from tests.benchmarks.bed.perceptrons import first, relative
from tests.benchmarks.bed.tables import Row, number, table

SETTINGS = Settings(method="weights")
MB = 1e6
STREAM = 128  # width of the residual perceptrons
INPUTS = 512  # of the models that are merged
WIDTHS = (512, 1024, 2048, 4096)
DEPTHS = (2, 4, 8, 16, 32, 64)
MODELS = (2, 4, 8, 16, 32)
STRATEGIES_HERE = ("many", "star")
SHORT = 2, 3, 2  # how many of each series
HEADS = ("growing", "size", "visits", "CPU s", "products s", "assignments s", "to that",
         "beyond MB", "model MB")  # fmt: skip


@dataclass(frozen=True)
class Grown:
    """What a match or merge took, beside what its visits cannot do without."""

    visits: int
    cpu: float
    beyond: int
    floor: Floor
    model: int

    def row(self, series: str, size: int) -> Row:
        floor = self.floor
        return (series, str(size), str(self.visits),
                *(number(x, 2) for x in (self.cpu, floor.products, floor.assignments)),
                number(self.cpu / floor.total, 1),
                *(number(x / MB, 1) for x in (self.beyond, self.model)))  # fmt: skip


def matched(make: Callable[[], Pair]) -> Grown:
    """Match two models and return what it took; to be called in a process of its own."""
    warm()
    pair = make()
    with counted() as visits:
        run: Taken[Matching] = taken(lambda: pair.match(SETTINGS))
    floor = floor_of(pair, run.value.permutations, visits)
    return Grown(visits.total(), run.cpu, run.peak - run.before, floor, nbytes(pair.reference))


def merged(strategy: str, paths: Sequence[Path]) -> Grown:
    """Bring the models of some files into one frame; to be called in a process of its own."""
    warm()
    models = [open_checkpoint(path) for path in paths]
    request = requested(models)
    with counted() as visits:
        run: Taken[Alignment] = taken(lambda: STRATEGIES[strategy](request))
    a, b = ({name: model.load(name) for name in model.names()} for model in models[:2])
    floor = floor_of(Pair(a, b, request.bound), run.value.permutations[1], visits)
    return Grown(visits.total(), run.cpu, run.peak - run.before, floor, nbytes(a))


def requested(models: Sequence[TensorSource]) -> ManyRequest:
    return ManyRequest(
        sources=models,
        bound=bind(load_spec("mlp"), infos(models[0])),
        settings=SETTINGS,
        reference=0,
        movable=None,
        labels=[str(k) for k in range(len(models))],
        progress=silent,
    )


def nbytes(state: State) -> int:
    return sum(infos(InMemory(state))[name].nbytes for name in state)


def rows(counts: tuple[int, int, int]) -> Iterator[Row]:
    """Yield the rows of every series. counts: how many of each."""
    widths, depths, models = counts
    for width in WIDTHS[:widths]:
        yield apart(matched, partial(perceptrons, width)).row("width", width)
    for depth in DEPTHS[:depths]:
        yield apart(matched, partial(residual_perceptrons, STREAM, depth)).row("blocks", depth)
    with tempfile.TemporaryDirectory() as folder:
        paths = list(written(Path(folder), MODELS[models - 1]))
        for strategy in STRATEGIES_HERE:
            for count in MODELS[:models]:
                grown = apart(merged, strategy, paths[:count])
                yield grown.row(f"models, {strategy}", count)


def written(folder: Path, count: int) -> Iterator[Path]:
    """Write models of one basin, and yield their files."""
    weights = first(INPUTS)
    for seed in range(count):
        path = folder / f"{seed}.safetensors"
        save_file(relative(weights, seed), path)
        yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole series")
    full = parser.parse_args().full
    counts = (len(WIDTHS), len(DEPTHS), len(MODELS)) if full else SHORT
    print(table(HEADS, list(rows(counts))))


if __name__ == "__main__":
    main()

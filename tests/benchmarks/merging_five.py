"""Claim: of 3 networks and of 5, `universe` brings the models at least as near to one another as
`many`, and that as near as `star`; and whichever way round one goes, the units agree.

Networks of the shared models.py are trained here from five seeds, on its 2,000 training images: a
perceptron 784-128-128-10, of which the real command merges all 5; --full also merges the first 3,
and adds a small VGG with BatchNorm, a perceptron of 256 units, and the perceptron, the VGG and the
ResNet-20 of the shared checkpoints. "pairs": the sum over pairs of models of their inner products,
in float64, computed from the merged file alone, since a permutation changes no norm: (|n merged|^2
- sum |model|^2) / 2. "cycles": ordered triples of models in which the maps from a to b and from b
to c make the map from a to c, unit by unit; the maps are those that the command's search returns,
and the merged file must be, bit by bit, the mean of the models so reordered. "torn": share of units
on which the matches of pairs disagreed before `sync` (or `sync-sweeps`; by each method) reconciled
them. "accuracy": on test images, in "reset" with BatchNorm statistics measured anew; "parents": the
mean of the models'. "barrier": the loss of the merge, statistics measured anew, above the mean of
the models'. CPU seconds: of the whole command on one thread without its start.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations as ordered
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from rebasin_cli.cli import main as rebasin
from rebasin_cli.commands.merge import run
from rebasin_cli.matching.many.factorisation import SYNC_METHODS
from rebasin_cli.matching.many.match_many import Alignment, ManyRequest
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.permutation import Permutations, compose, inverse
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.benchmarks.bed.apart import Taken, apart, taken
from tests.benchmarks.bed.judge import Judged, State, square, state_of
from tests.benchmarks.bed.networks import require
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.bed.training import RECIPES, SMALL_RECIPES, Recipe

HEADS = ("network", "models", "merge", "pairs", "cycles", "torn", "accuracy", "reset", "parents",
         "barrier", "CPU s")  # fmt: skip
SYNC = [f"{way} {how}" for way in ("sync", "sync-sweeps") for how in SYNC_METHODS]
MERGES = ("none", "star", "many", "universe", *SYNC)  # a strategy, and its --sync-method
MODELS = 5


@dataclass(frozen=True)
class Trained:
    """Models of one recipe, their files, and how they do."""

    recipe: Recipe
    states: Sequence[State]
    files: Sequence[Path]
    scores: Sequence[Judged]

    def first(self, count: int) -> Trained:
        cut = slice(count)
        return Trained(self.recipe, self.states[cut], self.files[cut], self.scores[cut])

    def moved(self, to_frame: Sequence[Permutations]) -> list[Permuted]:
        """Return the models in a common frame."""
        sources = [InMemory(state) for state in self.states]
        bound = bind(load_spec(self.recipe.spec), infos(sources[0]))
        pairs = zip(sources, to_frame, strict=True)
        return [Permuted(source, bound.tensors, own) for source, own in pairs]


def trained(recipe: Recipe, folder: Path) -> Trained:
    """Train the models of a recipe and write them into a folder."""
    states = [recipe.trained(seed) for seed in range(MODELS)]
    files = [folder / f"{recipe.name}_s{seed}.safetensors" for seed in range(len(states))]
    for state, file in zip(states, files, strict=True):
        save_file(dict(state), file)
    return Trained(recipe, states, files, [recipe.judged(state) for state in states])


def merge(files: Sequence[Path], spec: str, way: str, out: Path) -> Taken[list[Alignment]]:
    """Run the command and return what its search found; to be called in a process of its own.

    Of `none`, which searches nothing, the list is empty.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    found: list[Alignment] = []
    strategy, *how = way.split()

    def keeping(request: ManyRequest) -> Alignment:
        found.append(STRATEGIES[strategy](request))
        return found[-1]

    def command() -> list[Alignment]:
        try:
            rebasin()
        except SystemExit as done:
            if done.code:
                raise RuntimeError(f"{sys.argv} ended with {done.code}") from done
        return found

    options = ["-o", str(out), "--force", "--quiet", "--jobs", "1", "--spec", spec]
    options += ["--sync-method", *how] if how else []
    sys.argv = ["rebasin", "merge", *map(str, files), "--strategy", strategy, *options]
    with patch.object(run, "STRATEGIES", {**STRATEGIES, strategy: keeping}):
        return taken(command)


def closed(to_frame: Sequence[Permutations]) -> str:
    """Return how many ways around three models end where they began, of how many."""
    triples = list(ordered(to_frame, 3))
    good = sum(compose(between(b, c), between(a, b)) == between(a, c) for a, b, c in triples)
    return f"{good} of {len(triples)}"


def between(a: Permutations, b: Permutations) -> Permutations:
    """Return what brings model b into the order of model a."""
    return compose(b, inverse(a))


def is_mean(merged: State, models: Sequence[Permuted]) -> bool:
    """Return whether a model is, bit by bit, the mean of others."""
    return all(
        torch.equal(tensor, mean_of([model.load(name) for model in models]))
        for name, tensor in merged.items()
        if tensor.is_floating_point()
    )


def mean_of(tensors: Sequence[Tensor]) -> Tensor:
    return (torch.stack(list(tensors)).double().sum(0) / len(tensors)).float()


def row(models: Trained, strategy: str, out: Path) -> Row:
    recipe, count = models.recipe, len(models.states)
    done = apart(merge, models.files, recipe.spec, strategy, out)
    merged, found = state_of(out), done.value[0] if done.value else None
    if found and not is_mean(merged, models.moved(found.permutations)):
        sys.exit(f"{recipe.name}: the merge by {strategy} is not the mean of the aligned models")
    pairs = (count**2 * square(merged) - sum(map(square, models.states))) / 2
    raw = recipe.judged(merged)
    reset = recipe.judged(merged, reset=True) if recipe.batch_norm else None
    barrier = (reset or raw).loss - mean(score.loss for score in models.scores)
    cells = number(pairs, 2), closed(found.permutations) if found else ""
    parents = mean(score.accuracy for score in models.scores)
    scores = raw.accuracy, reset.accuracy if reset else None, parents, barrier
    return (recipe.name, str(count), strategy, *cells, number(found.torn if found else None, 3),
            *(number(score, 4) for score in scores), number(done.cpu, 2))  # fmt: skip


def rows(recipes: Sequence[Recipe], counts: Sequence[int], folder: Path) -> Iterator[Row]:
    for recipe in recipes:
        models = trained(recipe, folder)
        for count in counts:
            for strategy in MERGES:
                yield row(models.first(count), strategy, folder / "merged.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more networks, and 3 of them, too")
    full = parser.parse_args().full
    recipes, counts = (RECIPES, (3, MODELS)) if full else (SMALL_RECIPES, (MODELS,))
    require()
    with tempfile.TemporaryDirectory() as folder:
        print(table(HEADS, list(rows(recipes, counts, Path(folder)))))


if __name__ == "__main__":
    main()

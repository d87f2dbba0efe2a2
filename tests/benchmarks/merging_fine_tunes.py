"""Claim: differences to their base put five fine-tunes together, in every way to combine; the
table says which of them do more of what was learnt than the plain mean does.

A shared perceptron is fine-tuned here five times, each time on the training images distorted in
another way: either half covered, the upper or the lower one, the left or the right, and shifted.
The real command merges the five, as they are (`--strategy none`), in every way with the density and
the scale of its paper, and with their hidden units reordered at random, aligned to the base
(`star`) or not. --full: from three bases, the mean over them and the least and the most of it
behind, and other densities and scales too. "tasks": accuracy in % on test images distorted as in
training, the mean over the five; "worst" of them; "base task": on images as they are. "tuned": each
fine-tune on its own task. It prints a line for each base as it is done with.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from time import perf_counter

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from rebasin_cli.permutation import random_permutation
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import State, evaluation, state_of
from tests.benchmarks.bed.networks import FOLDER, require
from tests.benchmarks.bed.tables import Row, number, table

NETWORK = "mlp_512x3"
EPOCHS, BATCH, RATE = 5, 64, 3e-4
HEADS = ("merge", "density", "scale", "tasks", "worst", "base task")
TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no top": lambda x: _covered(x, slice(None, 14), slice(None)),
    "no bottom": lambda x: _covered(x, slice(14, None), slice(None)),
    "no left": lambda x: _covered(x, slice(None), slice(None, 14)),
    "no right": lambda x: _covered(x, slice(None), slice(14, None)),
    "shifted": lambda x: x.roll(5, -1),
}
# Task arithmetic where nothing chooses a scale: 0.4, as TIES' authors take it; theirs: a fifth of
# the values, scale 1. DARE drops nine of ten, and is no more than a step before one of these.
PUBLISHED = (
    ("mean", "", ""),
    ("slerp-n", "", ""),
    ("model-stock", "", ""),
    ("task-arithmetic", "", "0.4"),
    ("ties", "0.2", "1.0"),
    ("dare", "0.1", "0.4"),
    ("dare-ties", "0.1", "1.0"),
)
SUMMED, ELECTED = ("0.2", "0.3", "0.5", "1.0"), ("0.5", "1.5")
OTHERS = (
    *product(("task-arithmetic",), ("",), SUMMED),
    *product(("ties",), ("0.2",), ELECTED),
    *product(("ties",), ("0.1", "0.5"), ("1.0",)),
    *product(("dare",), ("0.5",), ("0.2", "0.4")),
    *product(("dare-ties",), ("0.5",), ("0.5", "1.0")),
)

Way = tuple[str, str, str]  # name, density and scale, empty where there is none
Figures = tuple[float, float, float]  # accuracies: the mean over tasks, the worst, the base's own


def _covered(images: Tensor, rows: slice, columns: slice) -> Tensor:
    found = images.clone()
    found[..., rows, columns] = 0
    return found


def tuned(base: Path, task: Callable[[Tensor], Tensor], seed: int) -> dict[str, Tensor]:
    """Return a shared network, trained further on distorted images."""
    tools = evaluation()
    torch.manual_seed(seed)
    model = tools.load(NETWORK, state_of(base)).train()
    images, labels = tools.train_images()
    images = task(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def accuracy(state: State, task: Callable[[Tensor], Tensor]) -> float:
    tools = evaluation()
    images, labels = tools.test_set(NETWORK)
    answers = tools.load(NETWORK, dict(state))(task(images)).argmax(-1)
    return 100 * float((answers == labels).double().mean())


def figures(state: State) -> Figures:
    each = [accuracy(state, task) for task in TASKS.values()]
    return mean(each), min(each), accuracy(state, lambda x: x)


def merged(base: Path, files: Sequence[Path], way: Way, strategy: str) -> Figures:
    """Return the figures of what the command makes of fine-tunes."""
    given = zip(("--combine", "--density", "--scale"), way, strict=True)
    options = [word for pair in given if pair[1] for word in pair]
    options += ["--strategy", strategy, "--spec", "mlp"]
    options += ["--base", str(base)] if way[0] not in {"mean", "slerp-n"} else []
    out = files[0].with_name("merged.safetensors")
    say(["merge", *map(str, files), *options, "-o", str(out), "--force", "-j", "1"])
    return figures(state_of(out))


def reordered(state: State, seed: int) -> dict[str, Tensor]:
    """Return the same function with its hidden units in another order."""
    source, generator = InMemory(state), torch.Generator().manual_seed(seed)
    bound = bind(load_spec("mlp"), infos(source))
    moved = {
        name: random_permutation(group.shape, group.parents, generator)
        for name, group in bound.groups.items()
        if not group.fixed
    }
    found = Permuted(source, bound.tensors, moved)
    return {name: found.load(name) for name in found.names()}


def written(states: Sequence[State], folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"tuned-{number}.safetensors" for number in range(len(states))]
    for state, file in zip(states, files, strict=True):
        save_file(dict(state), file)
    return files


def of_base(seed: int, ways: Sequence[Way], folder: Path) -> Iterator[tuple[Way, Figures]]:
    """Yield the figures of one base, of its fine-tunes, and of all that is made of them."""
    base = FOLDER / f"{NETWORK}_s{seed}.safetensors"
    states = [tuned(base, task, 10 * seed + k) for k, task in enumerate(TASKS.values())]
    own = [accuracy(state, task) for state, task in zip(states, TASKS.values(), strict=True)]
    yield ("base", "", ""), figures(state_of(base))
    plain = mean(accuracy(state, lambda x: x) for state in states)
    yield ("tuned", "", ""), (mean(own), min(own), plain)
    files = written(states, folder / "tuned")
    for way in ways:
        yield way, merged(base, files, way, "none")
    moved = written([reordered(s, k) for k, s in enumerate(states)], folder / "reordered")
    way = ("task-arithmetic", "", "0.4")
    for strategy in ("none", "star"):
        name = f"{way[0]}, reordered, {strategy}"
        yield (name, *way[1:]), merged(base, moved, way, strategy)


def cell(values: Sequence[float]) -> str:
    """Return a mean, and the least and the most behind it where there are several."""
    said = number(mean(values), 1)
    if len(values) == 1:
        return said
    return f"{said} ({number(min(values), 1)} to {number(max(values), 1)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three bases, more settings")
    full = parser.parse_args().full
    require()
    ways = (*PUBLISHED, *OTHERS) if full else PUBLISHED
    found: dict[Way, list[Figures]] = {}
    for seed in range(3 if full else 1):
        began = perf_counter()
        with tempfile.TemporaryDirectory() as name:
            for way, each in of_base(seed, ways, Path(name)):
                found.setdefault(way, []).append(each)
        print(f"base {seed}: {perf_counter() - began:.0f} s", flush=True)
    rows: list[Row] = [
        (*way, *(cell(column) for column in zip(*each, strict=True))) for way, each in found.items()
    ]
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()

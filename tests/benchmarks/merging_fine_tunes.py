"""Claim: differences to their base put five fine-tunes together, in every way to combine; the
table says which of them do more of what was learnt than the plain mean does.

The shared perceptron is fine-tuned here five times, each time on the training images distorted in
another way: either half covered, the upper or the lower one, the left or the right, and shifted.
The real command merges the five, as they are (`--strategy none`), in every way and with several
scales, --full more densities; and with their hidden units reordered at random, aligned to the base
(`star`) or not. "tasks": accuracy on test images distorted as in training, the
mean over the five; "worst" of them; "base task": on images as they are. "tuned": each fine-tune on
its own task.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from rebasin_cli.merging.combination import DENSITIES
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
BASE = FOLDER / f"{NETWORK}_s0.safetensors"
EPOCHS, BATCH, RATE = 5, 64, 3e-4
HEADS = ("merge", "density", "scale", "tasks", "worst", "base task")
TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no top": lambda x: _covered(x, slice(None, 14), slice(None)),
    "no bottom": lambda x: _covered(x, slice(14, None), slice(None)),
    "no left": lambda x: _covered(x, slice(None), slice(None, 14)),
    "no right": lambda x: _covered(x, slice(None), slice(14, None)),
    "shifted": lambda x: x.roll(5, -1),
}
SCALES = {"task-arithmetic": (0.2, 0.3, 0.5, 1.0), "ties": (0.5, 1.0, 1.5)}
SCALES |= {"dare": SCALES["task-arithmetic"], "dare-ties": SCALES["ties"]}


def _covered(images: Tensor, rows: slice, columns: slice) -> Tensor:
    found = images.clone()
    found[..., rows, columns] = 0
    return found


def tuned(task: Callable[[Tensor], Tensor], seed: int) -> dict[str, Tensor]:
    """Return the shared network, trained further on distorted images."""
    tools = evaluation()
    torch.manual_seed(seed)
    model = tools.load(NETWORK, state_of(BASE)).train()
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
    return float((answers == labels).double().mean())


def scores(state: State) -> tuple[str, str, str]:
    """Return the cells of a model: all tasks, the worst, and that of the base."""
    each = [accuracy(state, task) for task in TASKS.values()]
    return number(mean(each)), number(min(each)), number(accuracy(state, lambda x: x))


def merged(files: Sequence[Path], options: Sequence[str], out: Path) -> State:
    """Return what the command makes of fine-tunes."""
    differs = not {"mean", "slerp-n"} & set(options)
    against = ["--base", str(BASE)] if differs else []
    say(["merge", *map(str, files), *against, *options, "-o", str(out), "--force", "-j", "1"])
    return state_of(out)


def ways(*, full: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what is merged by: the name, the density and the scale, empty where there is none."""
    yield from (("mean", "", ""), ("slerp-n", "", ""), ("model-stock", "", ""))
    for combine, scales in SCALES.items():
        usual = [DENSITIES[combine]] if combine in DENSITIES else [""]
        densities = [0.1, 0.2, 0.5, 0.9] if full and combine in DENSITIES else usual
        for density, scale in product(densities, scales):
            yield combine, str(density), str(scale)


def row(files: Sequence[Path], way: tuple[str, str, str], strategy: str) -> Row:
    given = zip(("--combine", "--density", "--scale"), way, strict=True)
    options = [word for pair in given if pair[1] for word in pair]
    options += ["--strategy", strategy, "--spec", "mlp"]
    state = merged(files, options, files[0].with_name("merged.safetensors"))
    moved = f", reordered, {strategy}" if files[0].parent.name == "reordered" else ""
    return (f"{way[0]}{moved}", *way[1:], *scores(state))


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
    folder.mkdir()
    files = [folder / f"tuned-{number}.safetensors" for number in range(len(states))]
    for state, file in zip(states, files, strict=True):
        save_file(dict(state), file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more densities")
    full = parser.parse_args().full
    require()
    states = [tuned(task, seed) for seed, task in enumerate(TASKS.values())]
    own = [accuracy(state, task) for state, task in zip(states, TASKS.values(), strict=True)]
    found: list[Row] = [("base", "", "", *scores(state_of(BASE)))]
    found.append(("tuned", "", "", number(mean(own)), number(min(own)), ""))
    with tempfile.TemporaryDirectory() as name:
        files = written(states, Path(name, "tuned"))
        found += [row(files, way, "none") for way in ways(full=full)]
        mixed = [reordered(state, seed) for seed, state in enumerate(states)]
        moved = written(mixed, Path(name, "reordered"))
        found += [row(moved, ("task-arithmetic", "", "0.3"), how) for how in ("none", "star")]
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

"""Claim: `--effort quick` finds better permutations than PyPI's `rebasin` 0.0.47 in less time, the
default better ones still, and what they permute always keeps its function.

Both tools match the same files in this run, each pair in a process of its own, on one thread, after
a small match. Networks trained apart, seeds 0 and 1, where they are present, and two random
perceptrons. "objective": the sum of inner products in float64 over all floating tensors that are
not running statistics, of the first model and what the tool made of the second. "CPU s": of the
matching alone; 0.0.47 finds its groups by tracing the model, which is beside it, `rebasin` has a
spec. "peak MB": of the process, "beyond": less that before the match, with both models loaded.
"function": whether the outputs of the second model stayed what they were, in float64. 0.0.47 runs
in an environment of its own (peer/requirements.txt), kept in the user's cache, with the torch,
numpy and scipy of this one; if it cannot be had, its published figures (peers.yaml) are printed.
--full: three seeds of 0.0.47's random order, and a perceptron 1024 wide instead of 512.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import InMemory
from tests.benchmarks.bed.apart import apart, taken
from tests.benchmarks.bed.floor import warm
from tests.benchmarks.bed.judge import difference, objective
from tests.benchmarks.bed.networks import Network, chosen, peers, present
from tests.benchmarks.bed.pairs import (
    CLASSES,
    IMAGE,
    Pair,
    State,
    perceptrons,
    sequential,
    trained,
)
from tests.benchmarks.bed.peer import Answer, Job, PeerError, answers
from tests.benchmarks.bed.tables import Row, number, table

MB = 1e6
LAYERS = 4
EXACT = 1e-6  # of outputs in float64: only the order of additions differs
EFFORTS = ("quick", "default")
PEER = "rebasin 0.0.47"
HEADS = ("network", "tool", "CPU s", "tracing CPU s", "peak MB", "beyond", "objective", "function")
SEEDS = (0, 1)


@dataclass(frozen=True)
class Task:
    """Two files to be matched. network: one that was trained, or the width of a perceptron."""

    network: Network | int
    models: tuple[Path, Path]

    @property
    def name(self) -> str:
        if isinstance(self.network, Network):
            return self.network.name
        return f"random {IMAGE}-{self.network}x{LAYERS}-{CLASSES}"

    @property
    def pair(self) -> Pair:
        if isinstance(self.network, Network):
            return trained(self.network, SEEDS)
        return perceptrons(self.network, LAYERS)

    def job(self, seed: int) -> Job:
        if isinstance(self.network, Network):
            return Job(self.network.name, self.models, seed)
        return Job(widths(self.network), self.models, seed)

    def kept(self, aligned: State) -> bool:
        """Return whether a model has the outputs of the second one."""
        before = load_file(self.models[1])
        if isinstance(self.network, Network):
            return difference(self.network, before, aligned) < EXACT
        one, two = (outputs(self.network, state) for state in (before, aligned))
        return float((one - two).abs().max()) < EXACT


def widths(width: int) -> list[int]:
    return [IMAGE, *[width] * LAYERS, CLASSES]


@torch.no_grad()
def outputs(width: int, state: State) -> Tensor:
    model = sequential(widths(width))
    model.load_state_dict(state)
    inputs = torch.randn(64, IMAGE, generator=torch.Generator().manual_seed(0))
    result: Tensor = model.double()(inputs.double())
    return result


def matched(task: Task, effort: str) -> Answer:
    """Match with this package; to be called in a process of its own."""
    warm()
    pair = task.pair
    run = taken(lambda: pair.match(Settings(effort=effort)))
    moved = Permuted(InMemory(pair.other), pair.bound.tensors, run.value.permutations)
    state = {name: moved.load(name) for name in pair.other}
    return Answer(state, 0.0, run.cpu, run.before, run.peak)


def row(task: Task, tool: str, answer: Answer | None) -> Row:
    if answer is None:
        return (task.name, tool, "failed", "", "", "", "", "")
    value = objective([load_file(task.models[0]), answer.aligned])
    sizes = (answer.peak, answer.peak - answer.before)
    return (task.name, tool, number(answer.cpu, 2), number(answer.traced or None, 2),
            *(number(size / MB, 0) for size in sizes), number(value, 1),
            "kept" if task.kept(answer.aligned) else "broken")  # fmt: skip


def published(task: Task) -> Iterator[Row]:
    """Yield the published figures of the other tool, where there are any."""
    if isinstance(task.network, Network):
        figures = peers("barrier")[task.name]["snimu"]
        yield (task.name, f"{PEER}, published", number(figures["cpu"], 2), "", "", "",
               number(figures["objective"], 1),
               "broken" if figures.get("broken") else "kept")  # fmt: skip


def rows(tasks: Sequence[Task], seeds: range, folder: Path) -> Iterator[Row]:
    """Yield the rows of each task: this package, then the other tool."""
    jobs = [task.job(seed) for task in tasks for seed in seeds]
    found: list[Answer | None] = []
    try:
        found = answers(jobs, folder)
    except PeerError as error:
        print(f"{PEER} does not run here, its published figures are printed: {error}\n")
    for k, task in enumerate(tasks):
        for effort in EFFORTS:
            yield row(task, f"rebasin, {effort}", apart(matched, task, effort))
        for seed, answer in zip(seeds, found[k * len(seeds) :], strict=False):
            yield row(task, f"{PEER}, seed {seed}", answer)
        if not found:
            yield from published(task)


def tasks(networks: Sequence[Network], width: int, folder: Path) -> Iterator[Task]:
    """Yield the pairs of files; the random ones are written first."""
    for network in networks if present() else ():
        yield Task(network, (network.path(SEEDS[0]), network.path(SEEDS[1])))
    pair, paths = perceptrons(width, LAYERS), (folder / "a.safetensors", folder / "b.safetensors")
    for state, path in zip((pair.reference, pair.other), paths, strict=True):
        save_file(dict(state), path)
    yield Task(width, paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="all networks, three seeds, a wider perceptron"
    )
    full = parser.parse_args().full
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        found = list(tasks(chosen(full=full), 1024 if full else 512, Path(name)))
        print(table(HEADS, list(rows(found, range(3 if full else 1), Path(name)))))


if __name__ == "__main__":
    main()

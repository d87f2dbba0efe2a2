"""Claim: where aligning takes long, it is matrix products and assignments; files cost little.

`rebasin align` on files, in a process that has run it on small ones, one thread, default effort.
Shares of its CPU seconds, in percent. "products": of matrices, and inner products. "assignments":
the solver (scipy, or lapx with the extra `fast`) and what prepares its argument. "I/O": reading,
widening and checking tensors, hashes, the written file. "order": taking values in another order,
copying them into one, and sorting, for descriptors. "spec": choosing one among the bundled.
"figures": what is reported.
"rest": everything else, Python included. All but the rest are timed by wrapping the functions in
which they happen; a call inside another one counts for its own share alone. "most MB": the peak
of the process, "beyond": less that before the command. Networks: trained ones where they are
present, and a residual perceptron with random weights; --full: perceptrons 784 - width x 4 - 10,
1024 and 2048 wide, and two random models with the shapes of torchvision's resnet50, too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.cli import main as command
from rebasin_cli.commands.align import plan
from rebasin_cli.commands.align import run as align
from rebasin_cli.matching.assignment import enumerated_pairs, joint
from rebasin_cli.matching.problem.device_tensors import DeviceTensors
from rebasin_cli.matching.search import pair_search as search
from rebasin_cli.spec.language.dump import dump
from tests.benchmarks.bed.apart import Taken, apart, taken
from tests.benchmarks.bed.clock import Clock, Place
from tests.benchmarks.bed.networks import NETWORKS, Network, present
from tests.benchmarks.bed.pairs import Pair, perceptrons, residual_perceptrons, resnets50
from tests.benchmarks.bed.tables import Row, number, table

MB = 1e6
PLACES: Mapping[str, Sequence[Place]] = {
    "products": [
        (torch, "dot"),
        (torch, "matmul"),
        *((torch.Tensor, name) for name in ("addmm_", "__matmul__", "matmul", "bmm")),
    ],
    "assignments": [(joint, "assign"), (enumerated_pairs, "assign_all")],
    "I/O": [
        (DeviceTensors, "load"),
        (Checkpoint, "load"),
        (Checkpoint, "sha256"),
        (align, "write_result"),
    ],
    "order": [(torch.Tensor, name) for name in ("index_select", "contiguous", "reshape", "sort")],
    "spec": [(plan, "choose_spec")],
    "figures": [(search, "compare_models"), (align, "compare_units_of")],
}
HEADS = ("network", "CPU s", *PLACES, "rest", "most MB", "beyond", "file MB")
SHORT = ("mlp_512x3", "resnet20_bn_x1", "char_gpt")


@dataclass(frozen=True)
class Task:
    """Two files, and what the command has to be told of them."""

    name: str
    files: tuple[Path, Path]
    options: Sequence[str] = field(default_factory=list)


def aligned(task: Task, small: Task, out: Path) -> tuple[Taken[None], Mapping[str, float]]:
    """Run the command and time its parts; to be called in a process of its own.

    small: what to run it on first, so that nothing is done for the first time afterwards.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _command(small, out)
    clock = Clock()
    with clock.on(PLACES):
        return taken(partial(_command, task, out)), clock.spent


def _command(task: Task, out: Path) -> None:
    options = ["-o", str(out), "--force", "--quiet", "--jobs", "1", *task.options]
    sys.argv = ["rebasin", "align", *map(str, task.files), *options]
    try:
        command()
    except SystemExit as done:
        if done.code:
            raise RuntimeError(f"{sys.argv} ended with {done.code}") from done


def row(task: Task, small: Task, out: Path) -> Row:
    run, spent = apart(aligned, task, small, out)
    shares = [100 * seconds / run.cpu for seconds in spent.values()]
    return (task.name, number(run.cpu, 2), *(number(x, 0) for x in (*shares, 100 - sum(shares))),
            *(number(size / MB, 0) for size in (run.peak, run.peak - run.before)),
            number(task.files[0].stat().st_size / MB, 1))  # fmt: skip


def tasks(folder: Path, *, full: bool) -> Iterator[Task]:
    """Yield what is aligned; random models are written when their turn comes."""
    for network in NETWORKS if present() else ():
        if full or network.name in SHORT:
            yield _trained(network)
    random: dict[str, Callable[[], Pair]] = {
        "random residual, 8 x 256": partial(residual_perceptrons, 256, 8),
    }
    if full:
        random["random 784-1024x4-10"] = partial(perceptrons, 1024)
        random["random 784-2048x4-10"] = partial(perceptrons, 2048)
        random["random resnet50"] = resnets50
    for name, make in random.items():
        yield written(name, make(), folder)


def _trained(network: Network) -> Task:
    return Task(network.name, (network.path(0), network.path(1)), network.options)


def written(name: str, pair: Pair, folder: Path) -> Task:
    """Write two models and their spec."""
    folder.mkdir(exist_ok=True)
    files = folder / "a.safetensors", folder / "b.safetensors"
    for state, path in zip((pair.reference, pair.other), files, strict=True):
        save_file(dict(state), path)
    spec = folder / "spec.yaml"
    spec.write_text(dump(pair.bound.spec), "utf-8")
    return Task(name, files, ["--spec", str(spec)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all networks, larger ones too")
    full = parser.parse_args().full
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = written("", perceptrons(32), folder / "small")
        found = tasks(folder / "random", full=full)
        out = folder / "aligned.safetensors"
        print(table(HEADS, [row(task, small, out) for task in found]))


if __name__ == "__main__":
    main()

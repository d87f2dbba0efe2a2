"""Claim: SIGKILL at any moment of an `align` onto an existing model leaves it old or new, whole.

`rebasin align --force` writes 20 MB over an existing file, or over a folder of more and smaller
shards with their index (`--max-shard-size`), and is killed at a random moment: every other time
anywhere in the run, else while the new one is being written (from the first sight of its temporary
neighbour). After each kill the target must be the old bytes or the new ones, of a folder all files
in it, and the two inputs must be as they were. What else lies in the folder is counted, and after
all kills the command must still do its work with the last of it lying around, and clear that away.
50 kills of each with --full, 8 without. The processes are forked from one that has loaded torch, so
that kills meet work and not imports.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.bed.commands import warm
from tests.benchmarks.bed.tables import Row, table

INPUTS, UNITS, LAYERS, OUTPUTS = 16_000, 256, 5, 10
OLD_SHARD, NEW_SHARD = "300KB", "600KB"
HEADS = ("onto", "killed", "kills", "old", "new", "broken", "missing", "ended before", "debris")
PAUSE = 0.0002  # between looks at the folder


@dataclass(frozen=True)
class Bench:
    """A folder with two models and a target, and a place for what the command says.

    shard: size of the target's shards; None: it is a file.
    """

    folder: Path
    said: Path
    shard: str | None = None

    @property
    def target(self) -> Path:
        return self.folder / ("target" if self.shard else "target.safetensors")

    @property
    def what(self) -> str:
        return "shards" if self.shard else "a file"

    @property
    def old(self) -> Path:
        """A copy of what the target is before."""
        return self.said / self.target.name

    @property
    def inputs(self) -> list[Path]:
        return [self.folder / "a.safetensors", self.folder / "b.safetensors"]

    @property
    def arguments(self) -> list[str]:
        shards = ["--max-shard-size", self.shard] if self.shard else []
        out = ["-o", str(self.target), "--force", *shards]
        return ["align", *map(str, self.inputs), *out, "-q", "-j", "1"]

    def debris(self) -> list[Path]:
        """Return what neither the inputs nor the target account for."""
        known = {*self.inputs, self.target}
        return [path for path in self.folder.iterdir() if path not in known]

    def restore(self) -> None:
        """Make the target what it was before."""
        if self.shard is None:
            shutil.copyfile(self.old, self.target)
            return
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.old, self.target)


@dataclass(frozen=True)
class Outcome:
    """What one kill left behind."""

    when: str
    target: str
    ended: bool
    debris: int
    inputs_kept: bool


@dataclass(frozen=True)
class Known:
    """Digests of the target before and after and of the inputs; seconds of a run and its end.

    writing: from the first sight of the new file to the end of the process.
    """

    old: str
    new: str
    inputs: tuple[str, ...]
    seconds: float
    writing: float


def write_model(path: Path, seed: int) -> None:
    """Write a perceptron; most of it is the first matrix, and the other layers make shards."""
    rng = np.random.default_rng(seed)
    widths = (INPUTS, *[UNITS] * LAYERS, OUTPUTS)
    state = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        state[f"{2 * number}.weight"] = rng.standard_normal((outputs, inputs), np.float32)
        state[f"{2 * number}.bias"] = rng.standard_normal(outputs, np.float32)
    save_file(state, path)


def digest(path: Path) -> str:
    """Return a digest of a file, or of names and contents in a folder; "" if there is neither."""
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    inside = "".join(f"{each.name} {digest(each)}\n" for each in sorted(path.iterdir()))
    return hashlib.sha256(inside.encode()).hexdigest()


def prepare(bench: Bench) -> None:
    """Write the inputs, and what the target is before: the second of them."""
    bench.folder.mkdir()
    bench.said.mkdir()
    for seed, path in enumerate(bench.inputs):
        write_model(path, seed)
    if bench.shard is None:
        shutil.copyfile(bench.inputs[1], bench.old)
        return
    model = str(bench.inputs[1])
    copy = ["merge", model, model, "--strategy", "none", "-o", str(bench.old), "-q"]
    process = warm([*copy, "--max-shard-size", OLD_SHARD], bench.said)
    process.join()
    if process.exitcode:
        raise SystemExit(f"merge ended with {process.exitcode}: see {bench.said}")


def rehearse(bench: Bench) -> Known:
    """Run the command to its end, warm; return what it writes and how long that takes."""
    old = digest(bench.old)
    for _ in range(2):  # the first start loads the packages
        bench.restore()
        began = time.perf_counter()
        process = warm(bench.arguments, bench.said)
        await_writing(bench, process)
        writing = time.perf_counter()
        process.join()
        ended = time.perf_counter()
        if process.exitcode:
            raise SystemExit(f"align ended with {process.exitcode}: see {bench.said}")
    inputs = tuple(map(digest, bench.inputs))
    return Known(old, digest(bench.target), inputs, ended - began, ended - writing)


def await_writing(bench: Bench, process: BaseProcess) -> None:
    """Return as soon as a new file has appeared in the folder, or the process has ended."""
    while process.is_alive() and not bench.debris():
        time.sleep(PAUSE)


def kill(bench: Bench, known: Known, when: str, chance: random.Random) -> Outcome:
    """Start the command onto the old file, kill it, and look; the folder is put right again."""
    bench.restore()
    process = warm(bench.arguments, bench.said)
    if when == "while writing":
        await_writing(bench, process)
        time.sleep(chance.uniform(0, known.writing))
    else:
        time.sleep(chance.uniform(0, known.seconds))
    ended = not process.is_alive()
    process.kill()
    process.join()
    found = digest(bench.target)
    state = {known.old: "old", known.new: "new", "": "missing"}.get(found, "broken")
    kept = tuple(map(digest, bench.inputs)) == known.inputs
    return Outcome(when, state, ended, len(bench.debris()), kept)


def row(bench: Bench, when: str, outcomes: list[Outcome]) -> Row:
    states = Counter(one.target for one in outcomes)
    counts = [str(states[name]) for name in ("old", "new", "broken", "missing")]
    ended = str(sum(one.ended for one in outcomes))
    return (
        bench.what,
        when,
        str(len(outcomes)),
        *counts,
        ended,
        str(sum(one.debris for one in outcomes)),
    )


def trials(bench: Bench, known: Known, count: int) -> Iterator[Outcome]:
    """Yield what each kill left; debris is moved out of the way until all are done."""
    chance = random.Random(0)
    for k in range(count):
        yield kill(bench, known, ("any moment", "while writing")[k % 2], chance)
        for path in bench.debris():
            shutil.rmtree(
                bench.said / path.name, ignore_errors=True
            )  # a folder, of the kill before
            path.rename(bench.said / path.name)


def survives(bench: Bench, known: Known) -> bool:
    """Return whether the command works among what a kill left behind, and clears it away."""
    for path in bench.said.glob(".*.tmp"):
        path.rename(bench.folder / path.name)
    process = warm(bench.arguments, bench.said)
    process.join()
    return digest(bench.target) == known.new and not bench.debris()


def report(bench: Bench, known: Known, outcomes: list[Outcome]) -> None:
    kinds = ("any moment", "while writing")
    span = f"{known.seconds:.2f} s without its start, {known.writing:.2f} s of it writing"
    print(f"A run takes {span}.\n")
    rows = [row(bench, kind, [o for o in outcomes if o.when == kind]) for kind in kinds]
    print(table(HEADS, rows))
    print(
        f"\nInputs unchanged after {sum(o.inputs_kept for o in outcomes)} of {len(outcomes)} kills."
    )
    print("Debris: hidden temporaries (.NAME.*.tmp), which the next run removes.")
    verdict = "the new one alone" if survives(bench, known) else "SOMETHING ELSE"
    print(f"Another run among the debris left {verdict}.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="50 kills of each")
    count = 50 if parser.parse_args().full else 8
    for shard in (None, NEW_SHARD):
        with tempfile.TemporaryDirectory() as name:
            bench = Bench(Path(name, "models"), Path(name, "said"), shard)
            prepare(bench)
            known = rehearse(bench)
            report(bench, known, list(trials(bench, known, count)))


if __name__ == "__main__":
    main()

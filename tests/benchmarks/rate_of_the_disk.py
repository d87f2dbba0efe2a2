"""Claim: `lerp`, `merge --strategy none` and `apply` come near the rate of `dd`.

Perceptrons of 9 MB (bed/perceptrons.py), 9 points of a line, 4 models merged, one permuted; --full:
101 MB, 99 points, 20 models. dd: each input once to /dev/null, each output from /dev/zero with
conv=fsync, 1 MB at a time, in turn with the command; of a line all outputs but one, since the
inputs are read once for all. Commands run in processes that have loaded torch; from their time that
of --dry-run is taken off, and from that of a line that of one point. Medians of 3 rounds. Inputs
come from the system's cache, for both; "from the disk": that has let go of them before, for both.
--full takes 10 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from statistics import median

from tests.benchmarks.bed.commands import warm
from tests.benchmarks.bed.tables import Row, number, table

WRITER = Path(__file__).parent / "bed" / "perceptrons.py"
HEADS = ("what", "rebasin s", "dd s", "rate, of dd")
ROUNDS = 3
SHORT, FULL = (2048, 9, 4), (24_000, 99, 20)  # inputs of a model, points of a line, models


def rebasin(folder: Path, arguments: Sequence[str]) -> float:
    """Run a command in a warm process and return its seconds."""
    began = time.perf_counter()
    process = warm([*arguments, "--quiet"], folder)
    process.join()
    if process.exitcode:
        sys.exit(f"{' '.join(arguments)}: {(folder / 'stderr').read_text()}")
    return time.perf_counter() - began


def work(folder: Path, arguments: Sequence[str], forgotten: Sequence[Path] = ()) -> float:
    """Return the seconds of a command beyond those of planning it. forgotten: see `forget`."""
    planning = rebasin(folder, [*arguments, "--dry-run"])
    forget(forgotten)
    return rebasin(folder, arguments) - planning


def forget(paths: Sequence[Path]) -> None:
    """Have the system's cache let go of files, so that they are read from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # it keeps what is not on the disk yet
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd(read: Sequence[Path], written: int, folder: Path, *, files: int = 1) -> float:
    """Return the seconds of reading files and of writing some of so many bytes each."""
    out, began = folder / "dd", time.perf_counter()
    out.mkdir()
    for path in read:
        _dd(f"if={path}", "of=/dev/null")
    size = [f"count={written}", "iflag=count_bytes"]
    for file in range(files):
        _dd("if=/dev/zero", f"of={out}/{file}", "conv=fsync", *size)
    seconds = time.perf_counter() - began
    rmtree(out)
    return seconds


def _dd(*arguments: str) -> None:
    subprocess.run(["dd", *arguments, "bs=1M"], check=True, stderr=subprocess.DEVNULL)


def line(models: Sequence[Path], points: int, folder: Path) -> tuple[float, float]:
    """Return the seconds of a point of a line, and those of dd."""
    pair = ["lerp", *map(str, models[:2])]
    seconds = {}
    for count in (1, points):
        out = folder / "line"
        seconds[count] = rebasin(folder, [*pair, "--steps", str(count), "-o", f"{out}/"])
        rmtree(out)
    others = points - 1
    copied = dd([], models[0].stat().st_size, folder, files=others)
    return (seconds[points] - seconds[1]) / others, copied / others


def mean(models: Sequence[Path], folder: Path, *, cached: bool) -> tuple[float, float]:
    """Return the seconds of a mean, and those of dd."""
    out, forgotten = folder / "mean.safetensors", () if cached else models
    command = ["merge", *map(str, models), "--strategy", "none", "-o", str(out)]
    seconds = work(folder, command, forgotten)
    out.unlink()
    forget(forgotten)
    return seconds, dd(models, models[0].stat().st_size, folder)


def permuted(models: Sequence[Path], folder: Path, *, cached: bool) -> tuple[float, float]:
    """Return the seconds of a model permuted, and those of dd."""
    forgotten = () if cached else models[1:2]
    out, saved = folder / "permuted.safetensors", folder / "saved.safetensors"
    if not saved.exists():
        pair = ["align", *map(str, models[:2]), "--effort", "quick"]
        rebasin(folder, [*pair, "-o", str(out), "--save-permutation", str(saved)])
    command = ["apply", str(saved), str(models[1]), "-o", str(out), "--force"]
    seconds = work(folder, command, forgotten)
    out.unlink()
    forget(forgotten)
    return seconds, dd(models[1:2], models[0].stat().st_size, folder)


def row(what: str, rounds: Sequence[tuple[float, float]]) -> Row:
    ours, theirs = (median(values) for values in zip(*rounds, strict=True))
    return (what, number(ours, 3), number(theirs, 3), number(theirs / ours, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="models of 101 MB, more of them")
    inputs, points, count = FULL if parser.parse_args().full else SHORT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [str(folder), str(count), "safetensors", str(inputs)]
        subprocess.run([sys.executable, str(WRITER), *words], check=True)
        models = sorted(folder.glob("model-*.safetensors"))
        rebasin(folder, ["inspect", str(models[0])])  # loads the packages
        lines = [line(models, points, folder) for _ in range(ROUNDS)]
        means = [mean(models, folder, cached=True) for _ in range(ROUNDS)]
        afresh = [mean(models, folder, cached=False) for _ in range(ROUNDS)]
        applied = [permuted(models, folder, cached=True) for _ in range(ROUNDS)]
        fetched = [permuted(models, folder, cached=False) for _ in range(ROUNDS)]
    rows = [row(f"a point of lerp --steps {points}", lines)]
    rows += [row(f"merge of {count}", means), row(f"merge of {count}, from the disk", afresh)]
    rows += [row("apply", applied), row("apply, from the disk", fetched)]
    print(f"A model has {inputs * 4232 / 1e6:.0f} MB.\n")
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()

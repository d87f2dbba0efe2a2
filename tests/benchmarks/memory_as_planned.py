"""Claim: what a plan says of memory (`--dry-run`) is what its run takes.

Each command runs on perceptrons of 9 MB (bed/perceptrons.py), --full: of 101 and 400 MB, with
--jobs 1. Taken: the largest resident set while it runs, less that between planning and running, so
without torch and what else was imported (Linux alone can tell). An estimate within 20 % is good.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bed.commands import COMMAND
from tests.benchmarks.bed.tables import Row, number, table

WRITER = Path(__file__).parent / "bed" / "perceptrons.py"
HEADS = ("command", "model MB", "planned MB", "taken MB", "planned, of taken")
SHORT, FULL = (2048,), (24_000, 94_500)  # inputs of a model
COMMANDS = {
    "align": "align {a} {b} -o {out}",
    "merge": "merge {a} {b} -o {out}",
    "merge --strategy none": "merge {a} {b} -o {out} --strategy none",
    "lerp": "lerp {a} {b} -o {out} --at 0.5",
    "apply": "apply {saved} {b} -o {out}",
    "verify": "verify {a} {b}",
    "diff": "diff {a} {b} --spec mlp -v",
}
# Runs a command as the command line does, and tells on stdout what its run took.
MEASURED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from rebasin_cli.cli import main, runner

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def measured(work):
    def run(plan, progress):
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        yield from work.run(plan, progress)
        planned = plan.describe().get("memory")
        print(json.dumps([planned, resident("VmHWM") - before]))
    return shown(replace(work, run=run))

shown, runner._shown = runner._shown, measured
main()
"""


def measure(arguments: list[str]) -> tuple[int | None, int]:
    """Return the bytes that a command planned, None if it says nothing, and those that it took."""
    command = [sys.executable, "-c", MEASURED, *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        sys.exit(f"{' '.join(arguments)}: {done.stderr}")
    last = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("["))
    planned, taken = json.loads(last)
    return planned, taken


def rows(inputs: int) -> Iterator[Row]:
    """Yield a row for each command on models with so many inputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [str(folder), "2", "safetensors", str(inputs)]
        subprocess.run([sys.executable, str(WRITER), *words], check=True)
        a, b = sorted(folder.glob("model-*"))
        places = {"a": a, "b": b, "saved": folder / "saved", "out": folder / "out.safetensors"}
        aligned = [*COMMAND, "align", str(a), str(b), "-o", str(folder / "x.safetensors"), "-q"]
        subprocess.run([*aligned, "--save-permutation", str(folder / "saved")], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        for what, line in COMMANDS.items():
            jobs = [] if what == "apply" else ["--jobs", "1"] if what != "diff" else []
            planned, taken = measure([*line.format(**places).split(), *jobs])
            places["out"].unlink(missing_ok=True)
            size = a.stat().st_size / 1e6
            share = planned / taken if planned is not None else None
            told = None if planned is None else planned / 1e6
            yield (what, number(size, 0), number(told, 0), number(taken / 1e6, 0), number(share, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="models of 101 and 400 MB")
    chosen = FULL if parser.parse_args().full else SHORT
    print(table(HEADS, [row for inputs in chosen for row in rows(inputs)]))


if __name__ == "__main__":
    main()

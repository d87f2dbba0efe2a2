"""Claim: what a plan says of memory (`--dry-run`) is what its run takes.

Each command runs on perceptrons of 12 MB (bed/perceptrons.py), --full: of 101 and 400 MB, with
--jobs 1; those that run the models do so on two inputs. Taken: the largest resident set while it
runs, less that between planning and running, so without torch and what else was imported (Linux
alone can tell). An estimate within 20 % is good.
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
    "lerp --align": "lerp {a} {b} -o {out} --at 0.5 --align --no-check",
    "apply": "apply {saved} {b} -o {out} --no-check",
    "statistics": "statistics {a} -o {out} {run}",
    "statistics A B": "statistics {a} {b} -o {out} {run}",
    "barrier": "barrier {a} {b} --at 0.5 {run}",
    "barrier --no-align": "barrier {a} {b} --at 0.5 --no-align {run}",
    "verify": "verify {a} {b}",
    "diff": "diff {a} {b} --spec mlp -v",
}
JOBS = ("align", "merge", "lerp", "verify", "statistics", "barrier")  # commands that have --jobs
# The model of the perceptrons, and what it is run on.
NETWORK = """
import torch

class Perceptron(torch.nn.Module):
    def __init__(self, widths=({inputs}, 512, 512, 512, 512, {inputs})):
        super().__init__()
        pairs = zip(widths, widths[1:])
        self.layers = torch.nn.ModuleList(torch.nn.Linear(read, wrote) for read, wrote in pairs)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

def batches():
    yield torch.ones(2, {inputs}), torch.zeros(2, dtype=torch.int64)
"""
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
        network = folder / "network.py"
        network.write_text(NETWORK.format(inputs=inputs))
        run = f"--model {network}:Perceptron --data {network}:batches --input-shape 2,{inputs}"
        out = folder / "out.safetensors"
        places = {"a": a, "b": b, "saved": folder / "saved", "out": out, "run": run}
        aligned = [*COMMAND, "align", str(a), str(b), "-o", str(folder / "x.safetensors"), "-q"]
        subprocess.run([*aligned, "--save-permutation", str(folder / "saved")], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        for what, line in COMMANDS.items():
            jobs = ["--jobs", "1"] if line.split()[0] in JOBS else []
            planned, taken = measure([*line.format(**places).split(), *jobs])
            out.unlink(missing_ok=True)
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

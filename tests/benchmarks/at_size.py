"""Claim: what is done with models of 100 million parameters takes CPU minutes and not hours, and of
memory what --max-memory says, where a command has that option.

A perceptron of five hidden layers in float32, with relatives of the same basin
(bed/perceptrons.py), and a llama in bfloat16 with a permuted copy (bed/planted_llamas.py), by the
real command, started from cold, on one thread: an adapter and a state of Adam follow a permutation
that `align --effort quick` found, two perceptrons are merged by least squares on four random
batches of 250, one is pruned by blocks of the Fisher on 16 examples, both are widened, and the
barriers of three pairs are judged at three points. Peak: the largest resident set of the process,
the pages of files that it has mapped included. "beyond start": less that of a process that imports
torch. Without arguments: small models; --full: of 108 and 102 million parameters, on 6 GB of disk;
--only takes commands by a word in their row, --keep FOLDER keeps the models for the next run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bed.commands import COMMAND, spend
from tests.benchmarks.bed.tables import Row, number, table

BED = Path(__file__).parent / "bed"
HEADS = ("command", "of", "CPU s", "peak MB", "beyond start MB")
IMPORTS = (sys.executable, "-c", "import torch, safetensors, rebasin_cli.commands.merge.run")
INPUTS, LAYERS, MODELS = 784, 5, 6
MB = 1e6
QUICK = "--effort quick --jobs 1 --no-check --quiet"
# What is measured: what it is called, and the line. {net}: the perceptron's class, {max}: a budget.
LINES: Mapping[str, str] = {
    "apply, adapter": "apply {llama}/perm {llama}/lora --base {llama}/b -o {out}",
    "apply, state of Adam": "apply {mlp}/perm {mlp}/adam.pt --model {net} -o {out}.pt",
    "merge --method least-squares": "merge {mlp}/model-00.safetensors {mlp}/model-01.safetensors "
    "-o {out}.safetensors --method least-squares --model {net} --data {data} --jobs 1 {max}",
    "prune --method block-fisher": "prune {mlp}/model-00.safetensors --sparsity 0.8 "
    "--method block-fisher --model {net} --data {few} -o {out}.safetensors {max}",
    "widen, perceptron": "widen {mlp}/model-00.safetensors --to hidden.*=2x -o {out}.safetensors",
    "widen, llama": "widen {llama}/a --to hidden.*=2x -o {out}",
    "barrier --series": "barrier --series {series} --pair-by order --model {net} --data {data} "
    "--steps 3 --effort quick --jobs 1 {max}",
}
NETWORK = """
import torch

class Perceptron(torch.nn.Module):
    def __init__(self):
        super().__init__()
        widths = {widths}
        pairs = zip(widths, widths[1:])
        self.layers = torch.nn.ModuleList(torch.nn.Linear(read, wrote) for read, wrote in pairs)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

def batches(rows=250):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        inputs = torch.randn(rows, {inputs}, generator=generator)
        yield inputs, torch.randint(10, (rows,), generator=generator)

def few():
    return batches(4)
"""


@dataclass(frozen=True)
class Size:
    """Widths of the perceptron; width, layers, vocabulary of the llama; what may be used."""

    hidden: int
    llama: tuple[int, int, int]
    memory: str


SHORT = Size(500, (256, 4, 4096), "1GB")
FULL = Size(5000, (768, 12, 16384), "5GB")


def write(size: Size, folder: Path) -> None:
    """Write all that the commands need."""
    mlp, llama, net = folder / "mlp", folder / "llama", folder / "net.py"
    for made in (mlp, llama):
        made.mkdir(parents=True)
    hidden = [size.hidden] * LAYERS
    net.write_text(NETWORK.format(widths=[INPUTS, *hidden, INPUTS], inputs=INPUTS), "utf-8")
    _program("perceptrons", mlp, MODELS, "safetensors", INPUTS, *hidden)
    _program("planted_llamas", llama, *size.llama, 4, "bfloat16")
    _program("belongings", "state", mlp / "model-01.safetensors", mlp / "adam.pt")
    _program("belongings", "adapter", llama / "b", llama / "lora")
    for place, pair in ((mlp, [f"model-0{k}.safetensors" for k in (0, 1)]), (llama, ["a", "b"])):
        files = [str(place / name) for name in pair]
        out = ["-o", str(place / "moved"), "--save-permutation", str(place / "perm")]
        spend([*COMMAND, "align", *files, *out, *QUICK.split()])


def words(size: Size, folder: Path) -> dict[str, str]:
    """Return what stands for the models in the lines of commands."""
    mlp, llama, net = folder / "mlp", folder / "llama", folder / "net.py"
    return {
        "mlp": str(mlp),
        "llama": str(llama),
        "net": f"{net}:Perceptron",
        "data": f"{net}:batches",
        "few": f"{net}:few",
        "series": " ".join(str(mlp / f"model-0{k}.safetensors") for k in range(MODELS)),
        "max": f"--max-memory {size.memory}",
    }


def _program(name: str, *arguments: object) -> None:
    spend([sys.executable, str(BED / f"{name}.py"), *map(str, arguments)])


def rows(size: Size, folder: Path, only: str) -> Iterator[Row]:
    """Yield a row for each command."""
    if not (folder / "llama" / "perm").exists():  # which is written last
        write(size, folder)
    start = spend(IMPORTS).peak
    for what, line in LINES.items():
        if only not in what:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            filled = line.format(**words(size, folder), out=f"{place}/out")
            spent = spend([*COMMAND, *filled.split(), "--quiet"])
        memory = f"within {size.memory}" if "{max}" in line else ""
        figures = spent.cpu, spent.peak / MB, (spent.peak - start) / MB
        row = (what, memory, *(number(value, 0) for value in figures))
        print(*row, file=sys.stderr, flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="of 100 million parameters")
    parser.add_argument("--only", default="", metavar="WORD", help="commands with it in their row")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the models go")
    asked = parser.parse_args()
    size = FULL if asked.full else SHORT
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that have no --jobs
    with tempfile.TemporaryDirectory() as name:
        print(table(HEADS, list(rows(size, asked.keep or Path(name), asked.only))))


if __name__ == "__main__":
    main()

"""Claim: rotated transformers merge better each next to the mean of the others than each next to
one of them, and what they do on data helps language models further.

Seeds 0, 1 and 2 of the shared ViT, merged by the real command with --symmetry orthogonal: by both
strategies that it has, by weights and by activations, in the frame of seed 0; --full takes each
seed for the reference in turn, and adds the GPT and the llama of `orthogonal_midpoints.py`. Loss
and accuracy: of the merged model on the test images or text. CPU seconds: of the command on one
thread without its start.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import judge, state_of
from tests.benchmarks.bed.networks import FOLDER, SEEDS, Network, require
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.orthogonal_midpoints import CODE, Subject, llama

HEADS = ("network", "strategy", "method", "reference", "loss", "accuracy", "CPU s")
WAYS = tuple(product(("star", "universe"), ("weights", "activations")))


def rows(subject: Subject, references: Sequence[int]) -> Iterator[Row]:
    """Yield a row for each way to merge all seeds, and each reference."""
    for (strategy, method), seed in product(WAYS, references):
        with tempfile.TemporaryDirectory() as folder:
            code, out = Path(folder) / "code.py", Path(folder) / "merged.safetensors"
            code.write_text(CODE)
            files = [str(subject.path(each)) for each in SEEDS]
            way = ["--strategy", strategy, "--method", method, "--ref", files[seed]]
            run = [
                "--model",
                f"{code}:{subject.network.name}",
                "--data",
                f"{code}:{subject.inputs}",
            ]
            options = [*subject.network.options, *way, *(run if method == "activations" else [])]
            merge = ["merge", *files, "--symmetry", "orthogonal", "-o", str(out), *options]
            cpu = say(merge).cpu
            judged = judge(subject.network, state_of(out))
        yield (subject.network.name, strategy, method, str(seed), number(judged.loss),
               number(judged.accuracy, 4), number(cpu, 1))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three networks, every reference")
    full = parser.parse_args().full
    require()
    vit = Subject(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), FOLDER, "images")
    gpt = Subject(Network("char_gpt", spec="preln-gpt", sizes={"heads": 4}), FOLDER, "text")
    subjects = [vit, gpt, llama()] if full else [vit]
    found = [row for each in subjects for row in rows(each, SEEDS if full else SEEDS[:1])]
    print(table(HEADS, found))
    for subject, way in product(subjects, WAYS):
        mine = [row for row in found if row[:3] == (subject.network.name, *way)]
        loss, accuracy = (mean(float(row[k]) for row in mine) for k in (4, 5))
        print(
            f"{subject.network.name}, {' by '.join(way)}: loss {loss:.3f}, accuracy {accuracy:.3f}"
        )


if __name__ == "__main__":
    main()

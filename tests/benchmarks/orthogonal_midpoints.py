"""Claim: rotated as well as permuted, two transformers trained apart have a midpoint that works.

For each network the real command aligns one seed with another: by permutations, by orthogonal maps
from the weights alone, by activations, and with 150 steps of learning on inputs without labels. The
barrier is the most by which the loss on the line rises above its chord, at 3 points, or at 11 with
--full. "outputs change": of the moved model in float64, beside the model as it was; where a head is
tied to the embedding, folding changes it. Without arguments the ViT's seeds 0 and 1; --full takes
all pairs of the ViT, the GPT and a llama, which is trained here, five minutes of CPU in all, and
kept in the user's cache.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import State, difference, evaluation, judge, state_of, walk
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, SEEDS, Network, require
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("network", "pair", "aligned by", "barrier", "middle loss", "middle accuracy",
         "outputs change", "CPU s")  # fmt: skip
WAYS: Mapping[str, Sequence[str]] = {
    "permutations": (),
    "orthogonal maps": ("--symmetry", "orthogonal"),
    "the same, by activations": ("--symmetry", "orthogonal", "--method", "activations"),
    "the first, learned": ("--symmetry", "orthogonal", "--learn", "150"),
}
STEPS, RATE, WINDOW, ROWS = 600, 4e-3, 65, 32  # of training the llama
CODE = f"""
import sys
sys.path[:0] = [{str(BENCHMARKS.parents[1])!r}, {str(FOLDER)!r}]
import models
from tests.benchmarks.bed.judge import evaluation
from tests.benchmarks.orthogonal_midpoints import windows

def vit_small(): return models.build("vit_small")
def char_gpt(): return models.build("char_gpt")
def tiny_llama(): return models.build("tiny_llama")
def images(): return iter(evaluation().train_images()[0].split({ROWS}))
def text(): return iter(windows().split({ROWS}))
"""


@dataclass(frozen=True)
class Subject:
    """A network, the folder of its seeds, and the function that yields its inputs."""

    network: Network
    folder: Path
    inputs: str

    def path(self, seed: int) -> Path:
        return self.folder / f"{self.network.name}_s{seed}.safetensors"


def windows() -> torch.Tensor:
    """Return the training text in windows of 64 characters, in random order."""
    text = load_file(FOLDER / "data.safetensors")["train_text"].long()
    rows = text[: len(text) // 64 * 64].view(-1, 64)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def llama() -> Subject:
    """Return the small llama, trained from three seeds if it is not in the cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    spec = str(BENCHMARKS / "specs" / "tiny_llama.yaml")
    found = Subject(Network("tiny_llama", spec=spec), home / "rebasin-benchmarks", "text")
    found.folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        if not found.path(seed).exists():
            save_file(trained(seed), found.path(seed))
    return found


def trained(seed: int) -> dict[str, torch.Tensor]:
    """Train the llama as the shared GPT was."""
    tools = evaluation()
    torch.manual_seed(seed)
    text = load_file(FOLDER / "data.safetensors")["train_text"].long()
    net = tools.models.build("tiny_llama")
    adam = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS):
        fall = 0.05 + 0.475 * (1 + math.cos(math.pi * step / STEPS))
        adam.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * fall
        starts = torch.randint(len(text) - WINDOW, (ROWS,)).tolist()
        rows = torch.stack([text[k : k + WINDOW] for k in starts])
        loss = F.cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
    return dict(net.state_dict())


def rows(subject: Subject, seeds: tuple[int, int], points: int) -> Iterator[Row]:
    """Yield a row for each way to align a pair."""
    a, b = (state_of(subject.path(seed)) for seed in seeds)
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            first, moved, cpu = aligned(subject, seeds, options, Path(folder))
        ends = first or a, moved
        judged = judge(subject.network, ends[0]), judge(subject.network, ends[1])
        line = walk(subject.network, ends, judged, points)
        change = difference(subject.network, b, moved)
        yield (subject.network.name, "-".join(map(str, seeds)), name, number(line.barrier),
               number(line.middle.loss), number(line.middle.accuracy, 4), f"{change:.0e}",
               number(cpu, 1))  # fmt: skip


def aligned(
    subject: Subject, seeds: tuple[int, int], options: Sequence[str], folder: Path
) -> tuple[State | None, State, float]:
    """Return the folded reference, if there is one, the moved model, and the CPU seconds."""
    code = folder / "code.py"
    code.write_text(CODE)
    run = ["--model", f"{code}:{subject.network.name}", "--data", f"{code}:{subject.inputs}"]
    files = [str(subject.path(seed)) for seed in seeds]
    said = say(
        ["align", *files, "-o", f"{folder}/", *subject.network.options, *options]
        + (run if {"--learn", "--method"} & set(options) else [])
    )
    folded = folder / f"{subject.path(seeds[0]).stem}.folded.safetensors"
    moved = state_of(folder / f"{subject.path(seeds[1]).stem}.aligned.safetensors")
    return (state_of(folded) if folded.exists() else None), moved, said.cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all pairs of three networks")
    full = parser.parse_args().full
    require()
    vit = Subject(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), FOLDER, "images")
    gpt = Subject(Network("char_gpt", spec="preln-gpt", sizes={"heads": 4}), FOLDER, "text")
    subjects = [vit, gpt, llama()] if full else [vit]
    pairs = list(combinations(SEEDS, 2)) if full else [(0, 1)]
    found = [row for s in subjects for p in pairs for row in rows(s, p, 11 if full else 3)]
    print(table(HEADS, found))
    for name in (subject.network.name for subject in subjects):
        for way in WAYS:
            mine = [float(row[3]) for row in found if (row[0], row[2]) == (name, way)]
            print(f"{name}, {way}: mean barrier {mean(mine):.3f}")


if __name__ == "__main__":
    main()

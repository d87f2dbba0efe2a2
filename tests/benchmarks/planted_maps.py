"""Claim: `align --symmetry auto` knows a permuted copy of a transformer from a rotated one.

A model is aligned with a copy of itself: every group permuted, or every group moved by a random map
of its class after norms were folded, and noise of 0, 0.5 or 1 times each tensor's standard
deviation added. "excess": cosine of the aligned models above that of unrelated weights, matched
alike. "distance": of the moved copy from the model (folded, where that is what is written), as a
share of its length; "noise": the same, were the planted map undone, so that equal figures say that
it was found. "outputs differ": of the two in float64, where there is no noise. The second table has
models trained apart, where nobody knows the truth. Without arguments the ViT; --full adds the GPT
and the llama of orthogonal_midpoints.py, and all pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.benchmarks.bed.commands import Said, say
from tests.benchmarks.bed.judge import State, difference, distance, state_of
from tests.benchmarks.bed.networks import FOLDER, SEEDS, Network, require
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.orthogonal_midpoints import Subject, llama

NOISES = (0.0, 0.5, 1.0)
CLASSES = ("permutation", "orthogonal")
CHOICE = ("excess, permutations", "excess, orthogonal maps", "chosen")
PLANTED = ("network", "planted", "noise x", *CHOICE, "distance", "noise", "outputs differ", "CPU s")
APART = ("network", "pair", *CHOICE, "CPU s")


@dataclass(frozen=True)
class Plant:
    """A copy of a model, moved, and the length of what was added to it."""

    state: State
    noise: float


def plant(subject: Subject, kind: str, noise: float) -> Plant:
    """Return a copy of seed 0, moved by random maps of a class, with noise."""
    generator = torch.Generator().manual_seed(17)
    with open_checkpoint(subject.path(0)) as model:
        network = subject.network
        selection = Selection(spec=network.spec, sizes=network.sizes)
        plan = plan_folding(choose_spec([model], selection), [model])
        state, bound, classes = state_of(subject.path(0)), plan.bound, plan.classes
        if kind == "permutation":
            classes = dict.fromkeys(classes, kind)
        else:
            source = FoldedNorms(model, plan)
            state, bound = {name: source.load(name) for name in state}, plan.moving
    maps = draw_maps(bound.groups.values(), classes, generator)
    moved = Carried(InMemory(state), bound.tensors, maps)
    other, square = {}, 0.0
    for name, value in ((n, moved.load(n)) for n in state):
        added = noise * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        other[name] = (value + added).float().contiguous()
        square += float(added.double().square().sum())
    return Plant(other, square**0.5)


def planted_row(subject: Subject, kind: str, noise: float) -> Row:
    """Align a model with a moved copy of itself and return what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = plant(subject, kind, noise)
        save_file(dict(copy.state), folder / "copy.safetensors")
        said = align(subject, [subject.path(0), folder / "copy.safetensors"], folder)
        reference, moved = results(said)
    length = distance(reference, {n: torch.zeros_like(t) for n, t in reference.items()})
    apart = distance(reference, moved) / length
    outputs = "" if noise else f"{difference(subject.network, reference, moved):.0e}"
    return (subject.network.name, kind, f"{noise:g}", *chosen(said), f"{apart:.2g}",
            f"{copy.noise / length:.2g}", outputs, number(said.cpu, 1))  # fmt: skip


def apart_row(subject: Subject, seeds: tuple[int, int]) -> Row:
    """Align two models trained apart and return what was chosen."""
    with tempfile.TemporaryDirectory() as folder:
        said = align(subject, [subject.path(seed) for seed in seeds], Path(folder))
    pair = "-".join(map(str, seeds))
    return (subject.network.name, pair, *chosen(said), number(said.cpu, 1))


def align(subject: Subject, files: Sequence[Path], folder: Path) -> Said:
    options = [*subject.network.options, "--symmetry", "auto", "-o", f"{folder}/"]
    return say(["align", *map(str, files), *options])


def chosen(said: Said) -> Row:
    """Return both excesses and the class with the larger one."""
    choice = said.events[0]
    return (*(number(choice[kind]["excess"], 4) for kind in CLASSES), choice["symmetry"])


def results(said: Said) -> tuple[State, State]:
    """Return the models that lie in one basin now: the reference, and the moved copy."""
    first, second = (event for event in said.events if event["event"] == "result")
    return state_of(Path(_path(first))), state_of(Path(_path(second)))


def _path(event: dict[str, Any]) -> str:
    return str(event["path"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three networks, all pairs")
    full = parser.parse_args().full
    require()
    vit = Subject(Network("vit_small", spec="preln-vit", sizes={"heads": 4}), FOLDER, "images")
    gpt = Subject(Network("char_gpt", spec="preln-gpt", sizes={"heads": 4}), FOLDER, "text")
    subjects = [vit, gpt, llama()] if full else [vit]
    pairs = list(combinations(SEEDS, 2)) if full else [(0, 1)]
    planted = [planted_row(s, kind, x) for s in subjects for kind in CLASSES for x in NOISES]
    print(table(PLANTED, planted))
    right = sum(row[1] == row[5] for row in planted)
    print(f"the planted class was chosen {right} times of {len(planted)}\n")
    apart = [apart_row(s, pair) for s in subjects for pair in pairs]
    print(table(APART, apart))
    print(f"orthogonal: {sum(row[4] == 'orthogonal' for row in apart)} of {len(apart)} pairs")


if __name__ == "__main__":
    main()

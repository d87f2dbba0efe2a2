"""Claim: the null value of a long search is known from a search of a share of the units.

`related` holds the cosine of two models against what the same search makes of noise. Where that
takes long it is made of a sample and carried to all units by a law (rebasin_cli/commands/related/
null_values.py). Here it is made both ways of models of which the whole can be searched too: trained
networks, and random perceptrons and llamas; "share" of all units. Mean cosines over the elements of
matrices between units, as the score has them. --full: more shares, and a perceptron 1,500 wide.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import process_time

import torch

from rebasin_cli.commands.related.frames import PairFrame, frame_of_orders, frame_of_rotations
from rebasin_cli.commands.related.nearness import free_pair, is_anchored
from rebasin_cli.commands.related.null_values import among_noise, null_of_sample
from rebasin_cli.files.inputs import open_models
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.options.selection import Selection
from rebasin_cli.progress import silent
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.fold_plan import can_rotate
from rebasin_cli.symmetry.maps import GroupMaps
from tests.benchmarks.bed.commands import spend
from tests.benchmarks.bed.networks import FOLDER, NETWORKS
from tests.benchmarks.bed.tables import Row, number, table

SETTINGS = replace(Settings(), effort="quick")  # as of what takes long
BED = Path(__file__).parent / "bed"
SHORT, FULL = (0.5,), (0.25, 0.35, 0.5)
HEADS = ("models", "by", "share", "whole", "from the sample", "apart", "CPU s", "of the sample")
NAMED = {"vit_small": "preln-vit", "char_gpt": "preln-gpt", "mlp_512x3": "mlp"}


def pairs(folder: Path, *, full: bool) -> Iterator[tuple[str, Path, Path, Selection]]:
    """Yield pairs of models: trained apart, and with random weights."""
    for network in NETWORKS:
        if network.name in NAMED:
            chosen = Selection(spec=NAMED[network.name], sizes=dict(network.sizes))
            a, b = (FOLDER / f"{network.name}_s{seed}.safetensors" for seed in (0, 1))
            yield network.name, a, b, chosen
    spend([sys.executable, str(BED / "rotated_llamas.py"), str(folder), "256", "4", "4096"])
    yield "llama, 5 M", folder / "a", folder / "b", Selection()
    if full:
        spend([sys.executable, str(BED / "wide_perceptrons.py"), str(folder), "1500", "4"])
        yield "perceptron, 8 M", folder / "a.safetensors", folder / "c.safetensors", Selection()


def rows(case: tuple[str, Path, Path, Selection], shares: tuple[float, ...]) -> Iterator[Row]:
    """Yield what both ways come to, for each way that a pair may be moved."""
    name, a, b, selection = case
    models = open_models([a, b], selection)
    choice = choose_spec(models, selection)
    frames = {"orders": frame_of_orders(choice.bound, choice.movable)}
    if can_rotate(choice.bound):
        frames["rotations"] = frame_of_rotations(plan_folding(choice, models))
    for by, frame in frames.items():
        pair = free_pair(models[0], models[1], frame, SETTINGS, silent)
        both = pair.first, pair.second
        pair.closeness(GroupMaps({}, {}))  # what is made of files is no part of a search
        began = process_time()
        found = among_noise(both, pair.frame, pair.finder(pair.frame), 0)
        took = process_time() - began
        whole = mean({n: each.cosine for n, each in found.items()}, pair.frame)
        for share in shares:
            began = process_time()
            part = mean(null_of_sample(both, pair.frame, pair.finder, share, 0), pair.frame)
            spent = process_time() - began
            yield (name, by, f"{share}", number(whole), number(part), f"{part - whole:+.3f}",
                   number(took, 1), number(spent, 1))  # fmt: skip


def mean(cosines: Mapping[str, float], frame: PairFrame) -> float:
    """Return the mean cosine over the elements of matrices between units."""
    sizes = {
        t.members[0]: sum(block.numel for block in t.blocks)
        for t in frame.bound.tensors
        if t.votes and not is_anchored(t, frame.bound)
    }
    return sum(cosines[n] * size for n, size in sizes.items()) / sum(sizes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more shares, a wider perceptron")
    full = parser.parse_args().full
    torch.set_num_threads(1)
    found = list[Row]()
    with tempfile.TemporaryDirectory() as name:
        for case in pairs(Path(name), full=full):
            for row in rows(case, FULL if full else SHORT):
                found.append(row)
                print(" | ".join(row), flush=True)
    print()
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

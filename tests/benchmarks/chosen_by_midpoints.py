"""Claim: of several alignments `align --select` takes one whose midpoint is no worse than that of
`align` alone, judged on batches that none was made on, and mostly much better.

For each network and pair of seeds the real command aligns by weights, by activations and by the
best of N ways; --full, all pairs of the five networks, transformers also with orthogonal maps.
Loss and accuracy of the midpoint are those on test data, with BatchNorm statistics reset; "held
out" is the loss by which the command chose, and CPU seconds are those of the whole command on one
thread. Without arguments seeds 0 and 1 of the ResNet and the ViT.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks.bed.commands import Said, say
from tests.benchmarks.bed.judge import Judged, judge, mixed, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, SEEDS, Network, chosen, require
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("network", "pair", "aligned by", "test loss", "accuracy", "held out", "chosen", "CPU s")
COUNT = 6
WEIGHTS, SELECTED, ROTATED = "weights", "select", "select, orthogonal maps too"


@dataclass(frozen=True)
class Halfway:
    """A pair aligned in one way: what its midpoint does, and what the command said."""

    network: Network
    pair: tuple[int, int]
    way: str
    judged: Judged
    said: Said

    @property
    def choice(self) -> Mapping[str, Any] | None:
        return next((event for event in self.said.events if event["event"] == "choice"), None)

    @property
    def row(self) -> Row:
        choice = self.choice or {"loss": None, "symmetry": "", "name": ""}
        named = f"{choice['symmetry']}, {choice['name']}" if choice["name"] else ""
        return (self.network.name, "-".join(map(str, self.pair)), self.way,
                number(self.judged.loss), number(self.judged.accuracy, 4), number(choice["loss"]),
                named, number(self.said.cpu, 1))  # fmt: skip


def ways(network: Network, count: int) -> dict[str, Sequence[str]]:
    """Return the ways to align a network, as options of the command."""
    select = ("--select", str(count))
    found: dict[str, Sequence[str]] = {WEIGHTS: (), "activations": ("--method", "activations")}
    found |= {"activations, mix 0.5": ("--method", "activations", "--mix", "0.5")}
    found |= {SELECTED: select}
    if network.name in ("vit_small", "char_gpt"):
        found[ROTATED] = (*select, "--symmetry", "auto")
    return found


def halfway(network: Network, pair: tuple[int, int], way: str, options: Sequence[str]) -> Halfway:
    """Align a pair and judge the midpoint of what the command printed."""
    files = [str(network.path(seed)) for seed in pair]
    code = "text" if network.name == "char_gpt" else "images"
    data = ("--data", f"{BENCHMARKS / 'bed' / 'training_data.py'}:{code}") if options else ()
    arguments = json.dumps({"arch": network.name})
    model = ("--model", f"{FOLDER / 'models.py'}:build", "--model-args", arguments)
    with tempfile.TemporaryDirectory() as folder:
        said = say(["align", *files, "-o", f"{folder}/", "--jobs", "1", *model, *data, *options])
        results = [event for event in said.events if event["event"] == "result"]
        first, moved = (state_of(Path(event["path"])) for event in results)
    middle = judge(network, mixed(first, moved, 0.5), reset=network.batch_norm)
    return Halfway(network, pair, way, middle, said)


def verdict(found: Sequence[Halfway]) -> Iterator[str]:
    """Yield what the choices came to."""
    choices = [one for one in found if one.choice]
    kept = sum(_no_worse(one.choice) for one in choices)
    yield f"On held-out batches no worse than what is done without --select: {kept} of "
    yield f"{len(choices)} choices.\n"
    for network in dict.fromkeys(one.network.name for one in found):
        for way in dict.fromkeys(one.way for one in found if one.network.name == network):
            mine = [one.judged for one in found if (one.network.name, one.way) == (network, way)]
            yield f"{network}, {way}: mean test loss {mean(j.loss for j in mine):.3f}, accuracy "
            yield f"{mean(j.accuracy for j in mine):.1%}\n"


def _no_worse(choice: Mapping[str, Any] | None) -> bool:
    assert choice is not None
    defaults = [one["loss"] for one in choice["candidates"] if one["name"] == "default"]
    return bool(choice["loss"] <= min(defaults))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all pairs of all networks")
    parser.add_argument("--count", type=int, default=COUNT, help=f"candidates, {COUNT} by default")
    arguments = parser.parse_args()
    require()
    pairs = list(combinations(SEEDS, 2)) if arguments.full else [(0, 1)]
    found = []
    for network in chosen(full=arguments.full):
        for pair in pairs:
            for way, options in ways(network, arguments.count).items():
                found.append(halfway(network, pair, way, options))
                print(*found[-1].row, sep="\t", flush=True)
    print(table(HEADS, [one.row for one in found]))
    print("\n" + "".join(verdict(found)))


if __name__ == "__main__":
    main()

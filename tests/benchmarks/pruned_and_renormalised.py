"""Claim: pruned networks keep more of their accuracy where weights are chosen and updated by the
Fisher than by size, up to a point, and BatchNorm measured anew gives back most of what is lost.

Accuracy on test images of seed 0, pruned in one shot with the real command by every method, as it
is and after `--renormalize`: `reset` with BatchNorm, else `repair`, all statistics and gradients
from training images. The last row is the pattern 2:4. Nothing is trained after pruning. Without
arguments: the MLP at two sparsities; networks are chosen by name, --full takes all three.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import judge, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, NETWORKS, Network, require
from tests.benchmarks.bed.tables import Row, number, table

NAMES = ("mlp_512x3", "vgg_bn", "resnet20_bn_x1")
METHODS = ("magnitude", "layer-magnitude", "diagonal-fisher", "block-fisher")
SHARES = (0.5, 0.7, 0.8, 0.9)
FEW = (0.8, 0.9)
BATCHES = 4  # of 250 images each
PATTERN = "2:4"


def pruned(network: Network, amount: Sequence[str], method: str, *, renormalized: bool) -> float:
    """Return the accuracy of a network after pruning."""
    data = f"{BENCHMARKS / 'bed' / 'training_data.py'}:images"
    run = ["--model", f"{FOLDER / 'models.py'}:build", "--data", data, "--batches", str(BATCHES)]
    run += ["--model-args", json.dumps({"arch": network.name})]
    how = "reset" if network.batch_norm else "repair"
    more = ["--renormalize", how] if renormalized else []
    if renormalized or method.endswith("fisher"):
        more += run
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.safetensors"
        said = ["prune", str(network.path(0)), *amount, "--method", method, "-o", str(out)]
        say([*said, *more])
        return judge(network, state_of(out)).accuracy


def row(network: Network, label: str, amount: Sequence[str]) -> Row:
    cells = [network.name, label]
    for method in METHODS:
        found = [pruned(network, amount, method, renormalized=after) for after in (False, True)]
        cells += [number(value, 3) for value in found]
    print(*cells, file=sys.stderr, flush=True)  # the whole takes minutes
    return cells


def rows(network: Network, shares: Sequence[float]) -> Iterator[Row]:
    """Yield the table's rows of one network."""
    dense = number(judge(network, state_of(network.path(0))).accuracy)
    yield network.name, "0", *([dense] + [""] * (2 * len(METHODS) - 1))
    for share in shares:
        yield row(network, f"{share:g}", ["--sparsity", str(share)])
    yield row(network, PATTERN, ["--pattern", PATTERN])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true", help="every network, more sparsities")
    asked = parser.parse_args()
    require()
    torch.set_num_threads(1)
    names = NAMES if asked.full else asked.networks or NAMES[:1]
    chosen = [network for network in NETWORKS if network.name in names]
    shares = SHARES if asked.full or asked.networks else FEW
    heads = [part for method in METHODS for part in (method, "renormalised")]
    found = [line for network in chosen for line in rows(network, shares)]
    print(table(("network", "sparsity", *heads), found))


if __name__ == "__main__":
    main()

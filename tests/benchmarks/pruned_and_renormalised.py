"""Claim: pruned in one shot and as it comes, a network keeps more of its accuracy where blocks of
the Fisher choose and update weights than where their size does, and BatchNorm measured anew gives
back most of what is lost, whatever chose them.

Accuracy on test images of seed 0 after `rebasin prune` by every method, as it is and after
`--renormalize`: `reset` with BatchNorm, else `repair`. Gradients are of 500 training images, the
statistics of the same. The last row is the pattern 2:4. Nothing is trained after pruning. The
command's plan and run are called in this process. Without arguments: the MLP at two sparsities;
networks are chosen by name, --full takes all three.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rebasin_cli.commands.prune.command import PruneRequest
from rebasin_cli.commands.prune.plan import plan_prune
from rebasin_cli.commands.prune.run import run_prune
from rebasin_cli.options.data import Data
from rebasin_cli.options.output import Output
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.progress import silent
from tests.benchmarks.bed.judge import judge, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, NETWORKS, Network, require
from tests.benchmarks.bed.tables import Row, number, table

NAMES = ("mlp_512x3", "vgg_bn", "resnet20_bn_x1")
METHODS = ("magnitude", "layer-magnitude", "diagonal-fisher", "block-fisher")
SHARES = (0.5, 0.7, 0.8, 0.9)
FEW = (0.8, 0.9)
BATCHES = 2  # of 250 images each
DATA = f"{BENCHMARKS / 'bed' / 'training_data.py'}:images"
TARGET = f"{FOLDER / 'models.py'}:build"


@dataclass(frozen=True)
class Amount:
    """How much is pruned: a share or a pattern."""

    share: float | None = None
    pattern: str | None = None

    def __str__(self) -> str:
        return self.pattern or f"{self.share:g}"


def pruned(network: Network, amount: Amount, method: str, *, renormalized: bool) -> float:
    """Return the accuracy of a network after pruning."""
    runs = renormalized or method.endswith("fisher")
    how = "reset" if network.batch_norm else "repair"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.safetensors"
        request = PruneRequest(
            network.path(0),
            amount.share,
            method,
            pattern=amount.pattern,
            renormalize=how if renormalized else None,
            output=Output(out=str(out)),
            tracing=Tracing(TARGET if runs else None, arguments={"arch": network.name}),
            data=Data(data=DATA, batches=BATCHES) if runs else Data(),
        )
        list(run_prune(plan_prune(request), silent))
        return judge(network, state_of(out)).accuracy


def row(network: Network, amount: Amount) -> Row:
    cells = [network.name, str(amount)]
    for method in METHODS:
        found = [pruned(network, amount, method, renormalized=after) for after in (False, True)]
        cells += [number(value) for value in found]
    print(*cells, file=sys.stderr, flush=True)  # the whole takes minutes
    return cells


def rows(network: Network, shares: Sequence[float]) -> Iterator[Row]:
    """Yield the table's rows of one network."""
    dense = number(judge(network, state_of(network.path(0))).accuracy)
    yield network.name, "0", *([dense] + [""] * (2 * len(METHODS) - 1))
    for amount in (*map(Amount, shares), Amount(pattern="2:4")):
        yield row(network, amount)


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

"""Claim: the more first layers `merge --preserve-first` keeps of every parent, the nearer the
result comes to their ensemble, at a growing number of parameters and of operations; of a residual
network from its middle on, since what is kept before adds to a stream that is merged behind it.

Seeds 0 and 1 of a trained network, aligned by weights; for every K behind which the network can be
cut: accuracy on test images of the joined model, its parameters, and its FLOPs an input, beside
one of the models and the ensemble of both. "reset": with BatchNorm measured anew on training
images, since averaged statistics do not fit (`rebasin renormalize`). K 0 is a plain merge. Without
arguments: the MLP; networks are chosen by name, --full takes all three.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.bed.commands import say, warm
from tests.benchmarks.bed.judge import evaluation, judge, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, NETWORKS, Network, require
from tests.benchmarks.bed.tables import Row, number, table

NAMES = ("mlp_512x3", "vgg_bn", "resnet20_bn_x1")
HEADS = ("network", "K", "accuracy", "reset", "parameters", "FLOPs")
ROWS = 250
TRAINING = f"{BENCHMARKS / 'bed' / 'training_data.py'}:images"


def test_images() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the models are judged on."""
    inputs, labels = evaluation().test_set(NAMES[0])
    return zip(inputs.split(ROWS), labels.split(ROWS), strict=True)


def joined(network: Network, count: int, folder: Path) -> dict[str, Any] | None:
    """Return the event of a merge that keeps so many layers, None where it cannot be cut."""
    out = folder / "merged.safetensors"
    argv = ["merge", str(network.path(0)), str(network.path(1)), "-o", str(out), *network.options]
    argv += ["--model", f"{FOLDER / 'models.py'}:build", "--preserve-first", str(count)]
    argv += [
        "--model-args",
        json.dumps({"arch": network.name}),
        "--data",
        f"{__file__}:test_images",
    ]
    process = warm([*argv, "--json", "--quiet"], folder)
    process.join()
    if process.exitcode:
        return None  # it cannot be cut there
    events = [json.loads(line) for line in (folder / "stdout").read_text("utf-8").splitlines()]
    found: dict[str, Any] = next(event for event in events if event["event"] == "result")
    return found


def after_reset(network: Network, folder: Path) -> float:
    """Return the accuracy of a joined model with its BatchNorm measured anew."""
    out, module = folder / "reset.safetensors", f"{folder / 'merged.py'}:build"
    said = ["renormalize", str(folder / "merged.safetensors"), "--method", "reset", "-o", str(out)]
    say([*said, "--model", module, "--data", TRAINING])
    space: dict[str, Any] = {"__file__": str(folder / "merged.py"), "__name__": "merged"}
    exec((folder / "merged.py").read_text("utf-8"), space)
    model = space["build"]()
    model.load_state_dict(state_of(out), strict=False)
    return float(evaluation().evaluate(model.eval(), network.name)[1])


def plain(network: Network, single: Sequence[str]) -> Row:
    """Return the row of a merge that keeps nothing. single: parameters and FLOPs of one model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "merged.safetensors"
        files = [str(network.path(0)), str(network.path(1))]
        say(["merge", *files, "-o", str(out), *network.options])
        state = state_of(out)
    anew = judge(network, state, reset=True).accuracy if network.batch_norm else None
    return network.name, "0", number(judge(network, state).accuracy), number(anew), *single


def most_layers(network: Network) -> int:
    """Return the number of modules with weights of their own; some of them may be one layer."""
    modules = evaluation().models.build(network.name).modules()
    return sum(1 for module in modules if list(module.parameters(recurse=False)))


def rows(network: Network) -> Iterator[Row]:
    """Yield the table's rows of one network."""
    event: dict[str, Any] = {}
    single: Sequence[str] = ()
    for count in range(1, most_layers(network)):
        with tempfile.TemporaryDirectory() as name:
            found = joined(network, count, Path(name))
            if found is None:
                continue
            if not event:
                own = found["single"]
                single = f"{own['parameters']:,}", f"{own['flops']:,}"
                yield plain(network, single)
            event = found
            anew = number(after_reset(network, Path(name))) if network.batch_norm else ""
        size = f"{found['parameters']:,}", f"{found['flops']:,}"
        accuracy = number(found["scores"]["merged"]["accuracy"])
        yield network.name, str(count), accuracy, anew, *size
    models = " and ".join(number(each["accuracy"]) for each in event["scores"]["models"])
    ensemble = number(event["scores"]["ensemble"]["accuracy"])
    yield network.name, "one model", models, "", *single
    twice = [f"{2 * event['single'][key]:,}" for key in ("parameters", "flops")]
    yield network.name, "ensemble", ensemble, "", *twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true", help="every network")
    asked = parser.parse_args()
    require()
    torch.set_num_threads(1)
    names = NAMES if asked.full else asked.networks or NAMES[:1]
    chosen = [network for network in NETWORKS if network.name in names]
    print(table(HEADS, [line for network in chosen for line in rows(network)]))


if __name__ == "__main__":
    main()

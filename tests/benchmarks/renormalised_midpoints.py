"""Claim: corrected statistics make the midpoint of two networks trained apart usable: networks with
BatchNorm gain most from a reset, deep ones without norms from rescaling, or from calibrated biases
without any data, networks with LayerNorm little.

Loss and accuracy on test images of the model halfway between seeds 0 and 1: as trained, aligned by
weights with the real command, and with each method of `rebasin renormalize`; statistics come from
training images. "calibrate": by how much shorter the averaged weights are; "by depth": by a half
in each layer, as published. The last network, ten convolutions without norms, is trained here, four
minutes of CPU in all, and kept in the user's cache. A network's name chooses it; --full takes every
one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rebasin_cli.errors import UsageError
from rebasin_cli.evaluate import Batches
from rebasin_cli.evaluate.bias_calibration import CALIBRATIONS
from rebasin_cli.evaluate.correcting import Correcting, Goals
from rebasin_cli.evaluate.layer_statistics import goals
from rebasin_cli.evaluate.measuring import layer_statistics
from rebasin_cli.evaluate.renormalize import renormalize
from rebasin_cli.tensors import InMemory
from rebasin_cli.trace.capture import record
from rebasin_cli.trace.depth import paths_to_biases
from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import Judged, State, evaluation, mixed, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, NETWORKS, Network, require
from tests.benchmarks.bed.plain_vgg import NAME, PlainVGG, plain_vgg
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("network", "midpoint", "loss", "accuracy")
DATA, ROWS = 1000, 250  # training images whose statistics count, and how many a batch holds
WINDOW = 64  # characters
SEQUENTIAL = ("repair", "rescale")  # also a pass a layer
DECAYS = {"weights": "calibrate", "depth": "calibrate by depth"}


@dataclass(frozen=True)
class Pair:
    """Two models of one network, files of seeds 0 and 1. options: of the command that aligns."""

    name: str
    build: Callable[[], nn.Module]
    files: tuple[Path, Path]
    options: Sequence[str]
    batch_norm: bool

    @cached_property
    def states(self) -> tuple[State, State]:
        return state_of(self.files[0]), state_of(self.files[1])

    @cached_property
    def moved(self) -> State:
        """The second model, aligned to the first."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "aligned.safetensors"
            words = ["align", *map(str, self.files), "-o", str(out), "--jobs", "1"]
            say([*words, *self.options])
            return state_of(out)

    @property
    def parents(self) -> list[nn.Module]:
        return [self.model(state) for state in (self.states[0], self.moved)]

    def model(self, state: State) -> nn.Module:
        model = self.build()
        model.load_state_dict(dict(state), strict=False)  # tied heads are not in the file
        return model.eval()

    @property
    def midpoint(self) -> nn.Module:
        return self.model(mixed(self.states[0], self.moved, 0.5))

    def judged(self, model: nn.Module) -> Judged:
        return Judged(*evaluation().evaluate(model, self.name))

    @cached_property
    def batches(self) -> Batches:
        inputs = training(self.name)
        return Batches(lambda: iter(inputs[:DATA].split(ROWS)))


def training(name: str) -> Tensor:
    """Return inputs that no score is measured on."""
    if name == "char_gpt":
        text = load_file(FOLDER / "data.safetensors")["train_text"].long()
        return text[: DATA * WINDOW].view(DATA, WINDOW)
    images: Tensor = evaluation().train_images()[0]
    return images


def pair_of(network: Network) -> Pair:
    files = network.path(0), network.path(1)
    models = evaluation().models
    return Pair(
        network.name, lambda: models.build(network.name), files, network.options, network.batch_norm
    )


def plain() -> Pair:
    options = ["--model", f"{BENCHMARKS / 'bed' / 'plain_vgg.py'}:PlainVGG"]
    options += ["--input-shape", "2,1,28,28"]
    return Pair(NAME, PlainVGG, (plain_vgg(0), plain_vgg(1)), options, batch_norm=False)


PAIRS: Mapping[str, Callable[[], Pair]] = {
    **{network.name: partial(pair_of, network) for network in NETWORKS},
    NAME: plain,
}


def corrected(pair: Pair) -> Iterator[tuple[str, nn.Module | str]]:
    """Yield the midpoint as each method leaves it, or why it does not apply."""
    known = layer_statistics(pair.parents, pair.batches, together=True)
    wanted = Goals(goals(known, (1, 1)))
    methods = [("reset", False)] if pair.batch_norm else []
    methods += [(method, False) for method in ("repair", "rescale", "reshift", "closed-form")]
    methods += [(method, True) for method in SEQUENTIAL]
    for method, sequential in methods:
        model = pair.midpoint
        renormalize(model, wanted, pair.batches, Correcting(method, sequential=sequential))
        yield f"{method}{', sequential' if sequential else ''}", model
    yield from calibrated(pair)


def calibrated(pair: Pair) -> Iterator[tuple[str, nn.Module | str]]:
    example = next(iter(pair.batches)).example
    try:
        paths = paths_to_biases(record(pair.midpoint, [(example.args, example.kwargs)]))
    except UsageError as error:
        yield DECAYS["weights"], f"not valid, {str(error).splitlines()[1].split(': ')[0]}"
        return
    sources = [InMemory(state) for state in (pair.states[0], pair.moved)]
    for decay, label in DECAYS.items():
        model = pair.midpoint
        biases = CALIBRATIONS[decay](sources, (1, 1), paths)
        renormalize(model, Goals(biases=biases), None, Correcting("calibrate"))
        yield label, model


def rows(pair: Pair) -> Iterator[Row]:
    """Yield the table's rows of one network."""
    a, b = pair.states
    for seed, state in enumerate((a, b)):
        yield row(pair, f"none: seed {seed}", pair.model(state))
    yield row(pair, "naive", pair.model(mixed(a, b, 0.5)))
    yield row(pair, "aligned by weights", pair.midpoint)
    for label, model in corrected(pair):
        if isinstance(model, str):
            yield pair.name, f"+ {label}: {model}", "", ""
        else:
            yield row(pair, f"+ {label}", model)


def row(pair: Pair, label: str, model: nn.Module) -> Row:
    found = pair.judged(model)
    return pair.name, label, number(found.loss), number(found.accuracy, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(PAIRS))
    parser.add_argument("--full", action="store_true", help="every network")
    asked = parser.parse_args()
    require()
    torch.set_num_threads(1)
    names = PAIRS if asked.full else asked.networks or ["mlp_512x3", "vgg_bn"]
    found = [line for name in names for line in rows(PAIRS[name]())]
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

"""Claim: matched on data and with corrected statistics, the midpoint of two networks trained apart
is usable: networks with BatchNorm gain most from a reset, deep ones without norms from rescaling,
or from calibrated biases without any data, networks with LayerNorm little.

Loss and accuracy on test images of the model halfway between seeds 0 and 1: as trained, aligned
with the real command by weights, by activations, by both, and by straight-through learning, and
after each with every method of `rebasin renormalize` that applies. All statistics come from
training images. "calibrate": by how much shorter the averaged weights are; "by depth": by a half in
each layer, as published. The last network, ten convolutions without norms, is trained here, four
minutes of CPU in all, and kept in the user's cache. Without arguments: the MLP, aligned in the
first two ways; networks are chosen by name, --full takes all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from rebasin_cli.activations.layer_statistics import goals
from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.errors import UsageError
from rebasin_cli.network.batches import Batches
from rebasin_cli.renormalization.bias_calibration import CALIBRATIONS
from rebasin_cli.renormalization.bias_paths import paths_to_biases
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import renormalize
from rebasin_cli.tensors import InMemory
from rebasin_cli.tracer.recording.capture import record
from tests.benchmarks.bed.commands import say
from tests.benchmarks.bed.judge import Judged, State, evaluation, mixed, state_of
from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER, NETWORKS, Network, require
from tests.benchmarks.bed.plain_vgg import NAME, PlainVGG, plain_vgg
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.bed.training_data import Batch, images, text

HEADS = ("network", "midpoint", "loss", "accuracy")
ALIGNMENTS: Mapping[str, Sequence[str]] = {
    "weights": (),
    "activations": ("--method", "activations"),
    "activations and weights": ("--method", "activations", "--mix", "0.5"),
    "straight-through": ("--method", "straight-through"),
}
MERGES = ("zipit", "cca", "least-squares")  # methods of `merge` that run the models
MERGED_AFTER = ("weights", "activations")  # alignments
SEQUENTIAL = ("repair", "rescale")  # also a pass a layer
DECAYS = {"weights": "calibrate", "depth": "calibrate by depth"}


@dataclass(frozen=True)
class Pair:
    """Two models of one network, files of seeds 0 and 1.

    weights, running: options of the command that aligns them, by weights alone or by running them.
    yields: which training data they are fed.
    """

    name: str
    build: Callable[[], nn.Module]
    files: tuple[Path, Path]
    weights: Sequence[str]
    running: Sequence[str]
    yields: Callable[[], Iterator[Batch]]
    batch_norm: bool = False

    @cached_property
    def states(self) -> tuple[State, State]:
        return state_of(self.files[0]), state_of(self.files[1])

    @cached_property
    def batches(self) -> Batches:
        return Batches(self.yields)

    @property
    def fed(self) -> Sequence[str]:
        """Options of a command that runs the models."""
        data = f"{BENCHMARKS / 'bed' / 'training_data.py'}:{self.yields.__name__}"
        return [*self.running, "--data", data]

    def aligned(self, alignment: str) -> State:
        """Return the second model, aligned to the first."""
        with tempfile.TemporaryDirectory() as folder:
            return state_of(self._align(alignment, Path(folder)))

    def merged(self, alignment: str, method: str, *options: str) -> State:
        """Return what `merge` makes of both by a method that runs them, the second aligned before.

        Where there is BatchNorm its statistics are measured anew. options: further ones.
        """
        reset = ["--renormalize", "reset"] if self.batch_norm else []
        with tempfile.TemporaryDirectory() as folder:
            models = [self.files[0], self._align(alignment, Path(folder))]
            out = Path(folder) / "merged.safetensors"
            how = ["--method", method, *reset, *options, *self.fed]
            say(["merge", *map(str, models), "-o", str(out), "--jobs", "1", *how])
            return state_of(out)

    def _align(self, alignment: str, folder: Path) -> Path:
        method = ALIGNMENTS[alignment]
        how = [*method, *self.fed] if method else self.weights
        out = folder / "aligned.safetensors"
        say(["align", *map(str, self.files), "-o", str(out), "--jobs", "1", *how])
        return out

    def model(self, state: State) -> nn.Module:
        model = self.build()
        model.load_state_dict(dict(state), strict=False)  # tied heads are not in the file
        return model.eval()

    def judged(self, model: nn.Module) -> Judged:
        return Judged(*evaluation().evaluate(model, self.name))


@dataclass(frozen=True)
class Halfway:
    """The first model of a pair, and the second as it was aligned."""

    pair: Pair
    moved: State

    @property
    def sources(self) -> tuple[State, State]:
        return self.pair.states[0], self.moved

    @property
    def midpoint(self) -> nn.Module:
        return self.pair.model(mixed(*self.sources, 0.5))


def pair_of(network: Network) -> Pair:
    models = evaluation().models
    arguments = json.dumps({"arch": network.name})
    return Pair(
        network.name,
        lambda: models.build(network.name),
        (network.path(0), network.path(1)),
        network.options,
        ("--model", f"{FOLDER / 'models.py'}:build", "--model-args", arguments),
        text if network.name == "char_gpt" else images,
        network.batch_norm,
    )


def plain() -> Pair:
    options = ("--model", f"{BENCHMARKS / 'bed' / 'plain_vgg.py'}:PlainVGG")
    shape = ("--input-shape", "2,1,28,28")
    files = plain_vgg(0), plain_vgg(1)
    return Pair(NAME, PlainVGG, files, (*options, *shape), options, images)


PAIRS: Mapping[str, Callable[[], Pair]] = {
    **{network.name: partial(pair_of, network) for network in NETWORKS},
    NAME: plain,
}


def corrected(halfway: Halfway) -> Iterator[tuple[str, nn.Module | str]]:
    """Yield the midpoint as each method leaves it, or why it does not apply."""
    pair = halfway.pair
    parents = [pair.model(state) for state in halfway.sources]
    known = layer_statistics(parents, pair.batches, together=True)
    wanted = goals(known, (1, 1))
    methods = [("reset", False)] if pair.batch_norm else []
    methods += [(method, False) for method in ("repair", "rescale", "reshift", "closed-form")]
    methods += [(method, True) for method in SEQUENTIAL]
    for method, sequential in methods:
        model = halfway.midpoint
        renormalize(model, wanted, pair.batches, CorrectionSettings(method, sequential=sequential))
        yield f"{method}{', sequential' if sequential else ''}", model
    yield from calibrated(halfway)


def calibrated(halfway: Halfway) -> Iterator[tuple[str, nn.Module | str]]:
    example = next(iter(halfway.pair.batches)).example
    try:
        paths = paths_to_biases(record(halfway.midpoint, [(example.args, example.kwargs)]))
    except UsageError as error:
        yield DECAYS["weights"], f"not valid, {str(error).splitlines()[1].split(': ')[0]}"
        return
    sources = [InMemory(state) for state in halfway.sources]
    for decay, label in DECAYS.items():
        model = halfway.midpoint
        biases = CALIBRATIONS[decay](sources, (1, 1), paths)
        with torch.no_grad():
            for name, bias in biases.items():
                model.get_parameter(name).copy_(bias)
        yield label, model


def rows(pair: Pair, alignments: Sequence[str]) -> Iterator[Row]:
    """Yield the table's rows of one network."""
    a, b = pair.states
    for seed, state in enumerate((a, b)):
        yield row(pair, f"none: seed {seed}", pair.model(state))
    yield row(pair, "naive", pair.model(mixed(a, b, 0.5)))
    for alignment in alignments:
        halfway = Halfway(pair, pair.aligned(alignment))
        yield row(pair, f"aligned by {alignment}", halfway.midpoint)
        for label, model in corrected(halfway):
            if isinstance(model, str):
                yield pair.name, f"+ {label}: {model}", "", ""
            else:
                yield row(pair, f"+ {label}", model)
        if alignment in MERGED_AFTER:
            for method in MERGES:
                model = pair.model(pair.merged(alignment, method))
                yield row(pair, f"merged by {method}", model)


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
    names = PAIRS if asked.full else asked.networks
    alignments = list(ALIGNMENTS) if names else ["weights", "activations"]
    found = [line for name in names or ["mlp_512x3"] for line in rows(PAIRS[name](), alignments)]
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

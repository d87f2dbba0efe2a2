"""Claim: the wider a merge by least squares, the nearer it comes to the ensemble of both models,
and at twice the width it is the ensemble.

Loss and accuracy on test images of seeds 0 and 1, the second aligned to the first by activations,
merged by `merge --method least-squares --width F`; with BatchNorm its statistics measured anew. The
ensemble is the mean of what both return before the softmax. Without arguments: the MLP at two
widths; networks are chosen by name, --full takes three and four widths.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rebasin_cli.network.resized_network import resize_model
from tests.benchmarks.bed.judge import State
from tests.benchmarks.bed.networks import require
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.renormalised_midpoints import PAIRS, Pair

HEADS = ("network", "model", "parameters", "loss", "accuracy")
WIDE = ("mlp_512x3", "vgg_bn", "resnet20_bn_x1")  # of which every hidden layer becomes wider
WIDTHS = (1.0, 1.25, 1.5, 2.0)


class Ensemble(nn.Module):
    """The mean of what models return."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([model(inputs) for model in self.models]).mean(0)


def rows(pair: Pair, widths: Sequence[float]) -> Iterator[Row]:
    models = [pair.model(state) for state in pair.states]
    for seed, model in enumerate(models):
        yield row(pair, f"seed {seed}", model)
    for width in widths:
        merged = pair.merged("activations", "least-squares", "--width", str(width))
        yield row(pair, f"--width {width:g}", wider(pair, merged))
    yield row(pair, "ensemble", Ensemble(*models).eval())


def wider(pair: Pair, state: State) -> nn.Module:
    """Return a model with tensors of other shapes than its class gives it."""
    model = pair.build()
    held = model.state_dict()
    shapes = {n: tuple(t.shape) for n, t in state.items() if t.shape != held[n].shape}
    resize_model(model, shapes).load_state_dict(dict(state))
    return model.eval()


def row(pair: Pair, label: str, model: nn.Module) -> Row:
    found = pair.judged(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    cells = pair.name, label, f"{count:,}", number(found.loss), number(found.accuracy, 4)
    print(*cells, file=sys.stderr, flush=True)  # the whole takes minutes
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(WIDE))
    parser.add_argument("--full", action="store_true", help="every network")
    asked = parser.parse_args()
    require()
    torch.set_num_threads(1)
    names = WIDE if asked.full else asked.networks or WIDE[:1]
    widths = WIDTHS if asked.full or asked.networks else (1.0, 2.0)
    found = [line for name in names for line in rows(PAIRS[name](), widths)]
    print(table(HEADS, found))


if __name__ == "__main__":
    main()

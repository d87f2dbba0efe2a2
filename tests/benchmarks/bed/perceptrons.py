"""Write perceptrons of one basin: perceptrons.py FOLDER COUNT ENDING INPUTS.

ENDING: safetensors or pt. With 8192 inputs a model has 37 MB, with 2048 12 MB. Every model is the
first with its hidden units reordered and a tenth of noise, as weights trained from one start would
be, so that aligning them ends after a few rounds, like that of real networks. A program, because
the one that measures memory has to stay small: a process inherits the peak of the one that starts
it.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN = (512, 512, 512, 512)
NOISE = 0.1


def first(inputs: int) -> list[Tensor]:
    """Return the weights (out, in) of the first model; it has as many outputs as inputs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(written, read) for read, written in pairwise((inputs, *HIDDEN, inputs))]
    return [torch.randn(shape, generator=generator) * shape[1] ** -0.5 for shape in shapes]


def relative(weights: list[Tensor], seed: int) -> dict[str, Tensor]:
    """Return the model with its hidden units reordered, and noise, as a state dict."""
    generator = torch.Generator().manual_seed(seed)
    hidden = [torch.randperm(size, generator=generator) for size in HIDDEN]
    fixed = torch.arange(len(weights[-1]))
    orders = [fixed, *hidden, fixed]
    state = {}
    for layer, weight in enumerate(weights):
        noise = torch.randn(weight.shape, generator=generator) * weight.std() * NOISE
        state[f"layers.{layer}.weight"] = weight[orders[layer + 1]][:, orders[layer]] + noise
        state[f"layers.{layer}.bias"] = torch.zeros(len(weight))
    return state


def main(folder: Path, count: int, ending: str, inputs: int) -> None:
    weights = first(inputs)
    for seed in range(count):
        state, path = relative(weights, seed), folder / f"model-{seed:02}.{ending}"
        if ending == "pt":
            torch.save(state, path)
        else:
            save_file(state, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

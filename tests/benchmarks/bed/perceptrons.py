"""Write perceptrons of one basin: perceptrons.py FOLDER COUNT ENDING INPUTS [HIDDEN ...].

ENDING: safetensors or pt. HIDDEN: the widths of the layers, 512 four times by themselves: with 8192
inputs a model then has 37 MB, with 2048 12 MB. Every model is the first with its hidden units
reordered and a tenth of noise, as weights trained from one start would be, so that aligning them
ends after a few rounds, like that of real networks. A program, because the one that measures memory
has to stay small: a process inherits the peak of the one that starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN = (512, 512, 512, 512)
NOISE = 0.1


def first(inputs: int, hidden: Sequence[int] = HIDDEN) -> list[Tensor]:
    """Return the weights (out, in) of the first model; it has as many outputs as inputs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(written, read) for read, written in pairwise((inputs, *hidden, inputs))]
    return [torch.randn(shape, generator=generator) * shape[1] ** -0.5 for shape in shapes]


def relative(weights: list[Tensor], seed: int) -> dict[str, Tensor]:
    """Return the model with its hidden units reordered, and noise, as a state dict."""
    generator = torch.Generator().manual_seed(seed)
    hidden = [torch.randperm(len(weight), generator=generator) for weight in weights[:-1]]
    fixed = torch.arange(len(weights[-1]))
    orders = [fixed, *hidden, fixed]
    state = {}
    for layer, weight in enumerate(weights):
        noise = torch.randn(weight.shape, generator=generator) * weight.std() * NOISE
        state[f"layers.{layer}.weight"] = weight[orders[layer + 1]][:, orders[layer]] + noise
        state[f"layers.{layer}.bias"] = torch.zeros(len(weight))
    return state


def main(folder: Path, count: int, ending: str, inputs: int, *hidden: int) -> None:
    weights = first(inputs, hidden or HIDDEN)
    for seed in range(count):
        state, path = relative(weights, seed), folder / f"model-{seed:02}.{ending}"
        if ending == "pt":
            torch.save(state, path)
        else:
            save_file(state, path)


if __name__ == "__main__":
    _, place, models, form, *sizes = sys.argv
    main(Path(place), int(models), form, *map(int, sizes))

"""Write models of one basin: chain.py FOLDER COUNT ENDING; ENDING: safetensors or pt.

A chain of 16 convolutions of 256 units, 3 x 3, of the names that the bundled spec `mlp` knows:
38 MB. Each is the first with its units reordered, and a tenth of noise, as weights trained from
the same start would be, so that aligning them ends after a few rounds, like real networks.
A program, because the one that measures memory has to stay small: a child inherits its peak.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

UNITS, LAYERS, POSITIONS = 256, 16, 9
NOISE = 0.1


def first() -> list[Tensor]:
    """Return the weights (out, in, 3, 3) of the first model."""
    generator = torch.Generator().manual_seed(0)
    shape = (UNITS, UNITS, 3, 3)
    scale = (UNITS * POSITIONS) ** -0.5
    return [torch.randn(shape, generator=generator) * scale for _ in range(LAYERS)]


def relative(weights: list[Tensor], seed: int) -> dict[str, Tensor]:
    """Return the model with its hidden units reordered, and noise, as a state dict."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(UNITS)
    state = {}
    for layer, weight in enumerate(weights):
        before, order = order, torch.randperm(UNITS, generator=generator)
        if layer == LAYERS - 1:
            order = torch.arange(UNITS)
        noise = torch.randn(weight.shape, generator=generator) * weight.std() * NOISE
        state[f"layers.{layer}.weight"] = weight[order][:, before] + noise
        state[f"layers.{layer}.bias"] = torch.zeros(UNITS)
    return state


def main(folder: Path, count: int, ending: str) -> None:
    weights = first()
    for seed in range(count):
        state, path = relative(weights, seed), folder / f"model-{seed:02}.{ending}"
        if ending == "pt":
            torch.save(state, path)
        else:
            save_file(state, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

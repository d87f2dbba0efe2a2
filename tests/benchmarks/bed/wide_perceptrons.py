"""Write perceptrons with random weights: wide_perceptrons.py FOLDER WIDTH DEPTH.

FOLDER/a.safetensors, DEPTH hidden layers of WIDTH units between 784 and 10; b, a with every hidden
layer in a random order, and noise of half the standard deviation on each tensor; d, with the noise
alone; c, drawn anew. A program, because the one that measures memory has to stay small.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

NOISE = 0.5


def drawn(sizes: list[int], seed: int) -> dict[str, Tensor]:
    """Return a perceptron, its weights as long as those of torch.nn.Linear."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for k, (read, written) in enumerate(pairwise(sizes)):
        state[f"{2 * k}.weight"] = torch.randn(written, read, generator=generator) / read**0.5
        state[f"{2 * k}.bias"] = torch.randn(written, generator=generator) / read**0.5
    return state


def noisy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)
    return {n: v + NOISE * v.std() * torch.randn(v.shape, generator=generator)
            for n, v in state.items()}  # fmt: skip


def moved(state: dict[str, Tensor], sizes: list[int]) -> dict[str, Tensor]:
    """Return a perceptron with its units in another order."""
    generator = torch.Generator().manual_seed(9)
    inner = [torch.randperm(size, generator=generator) for size in sizes[1:-1]]
    orders = [torch.arange(sizes[0]), *inner, torch.arange(sizes[-1])]
    found = {}
    for k in range(len(sizes) - 1):
        weight, bias = state[f"{2 * k}.weight"], state[f"{2 * k}.bias"]
        found[f"{2 * k}.weight"] = weight[orders[k + 1]][:, orders[k]]
        found[f"{2 * k}.bias"] = bias[orders[k + 1]]
    return found


def main(folder: Path, width: int, depth: int) -> None:
    sizes = [784, *[width] * depth, 10]
    first = drawn(sizes, 0)
    save_file(first, folder / "a.safetensors")
    save_file(noisy(moved(first, sizes)), folder / "b.safetensors")
    save_file(noisy(first), folder / "d.safetensors")
    save_file(drawn(sizes, 1), folder / "c.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""Train two perceptrons on handwritten digits from different seeds: python train.py FOLDER.

Writes a.safetensors, b.safetensors (named as by nn.Sequential) and held-out.safetensors.
Needs scikit-learn, for its copy of the UCI digits (1,797 pictures of 8 x 8).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 512
EPOCHS = 30
BATCH = 64
RATE = 0.02  # with small steps both stay so near their starts that even a naive average works
HELD_OUT = 360  # a fifth


def digits() -> tuple[Tensor, Tensor]:
    """Return the pictures (n, 64), from 0 to 1, and their labels, in a fixed random order."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(found.data / 16, dtype=torch.float32)
    return pictures[order], torch.tensor(found.target)[order]


def trained(pictures: Tensor, labels: Tensor, seed: int) -> nn.Sequential:
    """Return a 64-512-512-10 network whose start and batches come from the seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return model


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # so small a network gains nothing; a busy machine loses minutes
    pictures, labels = digits()
    held_out = {"pictures": pictures[:HELD_OUT], "labels": labels[:HELD_OUT]}
    save_file(held_out, folder / "held-out.safetensors")
    for seed, name in enumerate("ab"):
        model = trained(pictures[HELD_OUT:], labels[HELD_OUT:], seed)
        save_file(model.state_dict(), folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

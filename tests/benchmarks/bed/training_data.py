"""Training inputs and targets of the shared networks, as a user of the command would yield them.

No score is measured on them.
"""

from __future__ import annotations

from collections.abc import Iterator

from safetensors.torch import load_file
from torch import Tensor

from tests.benchmarks.bed.judge import evaluation
from tests.benchmarks.bed.networks import FOLDER

COUNT, ROWS = 2000, 250  # inputs, and how many a batch holds
WINDOW = 64  # characters

Batch = tuple[Tensor, Tensor]


def images() -> Iterator[Batch]:
    inputs, labels = evaluation().train_images()
    return zip(inputs.split(ROWS), labels.split(ROWS), strict=True)


def text() -> Iterator[Batch]:
    """Yield windows of characters, and those that follow each."""
    characters = load_file(FOLDER / "data.safetensors")["train_text"].long()
    windows = characters[: COUNT * (WINDOW + 1)].view(COUNT, WINDOW + 1)
    return ((rows[:, :-1], rows[:, 1:]) for rows in windows.split(ROWS))

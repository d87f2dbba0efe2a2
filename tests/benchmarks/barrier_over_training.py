"""Claim: `barrier --series` shows how the barrier between two runs changes with training and width.

Perceptrons with two hidden layers, trained on the shared training images from seeds 0 and 1 with
Adam; barriers on the test images. Over training: checkpoints of width 128, aligned each pair by
itself and all as the last pair is. Over width: perceptrons of several widths after 16 epochs.
Without arguments a short form; --keep FOLDER keeps the checkpoints, --full takes more of both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.bed.commands import Said, say
from tests.benchmarks.bed.judge import evaluation
from tests.benchmarks.bed.networks import require
from tests.benchmarks.bed.tables import Row, number, table

BATCH, RATE, ROWS = 64, 0.001, 250
WIDTH, EPOCHS = 128, (0, 1, 2, 4, 8, 16)
WIDTHS = (16, 32, 64, 128)
SHORT = ((0, 4), (16, 64))


def network(width: int = WIDTH) -> nn.Module:
    """Return what is trained, in the class of the shared networks."""
    made: nn.Module = evaluation().models.MLP((width, width))
    return made


def test_images() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the models are judged on."""
    inputs, labels = evaluation().test_set("mlp_512x3")
    return zip(inputs.split(ROWS), labels.split(ROWS), strict=True)


def train(width: int, seed: int, kept: dict[int, Path]) -> None:
    """Write a network after some epochs. kept: the file for each."""
    torch.manual_seed(seed)
    model = network(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    images, labels = evaluation().train_images()
    for epoch in range(max(kept) + 1):
        if epoch in kept:
            kept[epoch].parent.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), kept[epoch])
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


def series(files: Sequence[Path], options: Sequence[str]) -> Said:
    """Return what the command says of a series."""
    code = ["--model", f"{__file__}:network", "--data", f"{__file__}:test_images"]
    return say(["barrier", "--series", *map(str, files), *code, "--steps", "11", *options])


def rows(said: Said, how: str) -> Iterator[Row]:
    """Yield a row for each pair."""
    for event in (each for each in said.events if "place" in each):
        found = {(each["score"], each["curve"]): each for each in event["barriers"]}
        keys = [(s, c) for s in ("loss", "accuracy") for c in ("naive", "aligned")]
        heights = (number(found[key]["chord"]["height"]) for key in keys)
        yield how, f"{event['axis']} {event['place']:g}", *heights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more checkpoints, more widths")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where checkpoints go")
    asked: Any = parser.parse_args()
    require()
    torch.set_num_threads(1)
    epochs, widths = (EPOCHS, WIDTHS) if asked.full else SHORT
    with tempfile.TemporaryDirectory() as name:
        print(_table(asked.keep or Path(name), epochs, widths))


def _table(folder: Path, epochs: Sequence[int], widths: Sequence[int]) -> str:
    runs = [{e: folder / run / f"epoch-{e:02}.safetensors" for e in epochs} for run in "ab"]
    for seed, kept in enumerate(runs):
        train(WIDTH, seed, kept)
    ends = [folder / f"w{w}" / f"seed-{seed}.safetensors" for w in widths for seed in (0, 1)]
    for path in ends:
        train(int(path.parent.name[1:]), int(path.stem[-1]), {max(epochs): path})
    files = [path for kept in runs for path in kept.values()]
    by_folder = ["--pair-by", "folder", "--model-args", '{"width": "{number}"}']
    found = [
        *rows(series(files, []), "each"),
        *rows(series(files, ["--align-by", "last"]), "last"),
        *rows(series(ends, by_folder), "each"),
    ]
    heads = ("aligned by", "pair", "loss: naive", "aligned", "accuracy: naive", "aligned")
    return table(heads, found)


if __name__ == "__main__":
    main()

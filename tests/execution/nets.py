"""Perceptrons that a file of the user's builds, and which tell who builds them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cli.build import mlp, save
from tests.cli.harness import COMMAND, plain_environment

WIDTHS = (6, 8, 11, 4)
# A worker of a cluster that builds the model says on which node it is, and takes a while.
SOURCE = """
import os, time
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        sizes = (6, 8, 11, 4)
        layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
        super().__init__(*layers[:-1])
        node = os.environ.get("RAY_RAYLET_PID")
        if node:
            with open("nodes.txt", "a") as told:
                told.write(f"{node}\\n")
            time.sleep(1)
"""
MODEL = ("--model", "net.py:Net", "--input-shape", "2,6", "--no-cache")


def models(folder: Path, count: int) -> list[str]:
    """Write some models and the file that builds one; return their names."""
    (folder / "net.py").write_text(SOURCE)
    names = [f"{number}.safetensors" for number in range(count)]
    for number, name in enumerate(names):
        save(folder / name, mlp(number, WIDTHS))
    return names


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def started(
    *argv: str, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start `rebasin` as a process of its own, which may have children."""
    pipe, full = subprocess.PIPE, {**plain_environment(), **(env or {})}
    with subprocess.Popen(
        [*COMMAND, *argv], cwd=cwd, env=full, stdout=pipe, stderr=pipe, text=True
    ) as process:
        yield process

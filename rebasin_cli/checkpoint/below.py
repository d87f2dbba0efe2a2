"""The checkpoints that lie below a folder which is not one itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

# A hub cache has them three deep: models--org--name/snapshots/HASH.
_DEEPEST = 3
# Folders looked into: a home full of runs has to have an end.
_MOST = 2000
# What is inside a hub cache beside its snapshots.
_INSIDES = frozenset({"blobs", "refs"})


def folders_below(folder: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """Return the folders below one that hold weights, the last steps of a training run last."""
    found = [path for path in islice(_walk(folder, _DEEPEST), _MOST) if holds(path)]
    return sorted(found, key=lambda path: _natural(str(path)))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    children: list[Path] = []
    with suppress(OSError):
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    children = [c for c in children if not c.name.startswith(".") and c.name not in _INSIDES]
    yield from children
    if depth > 1:
        for child in children:
            yield from _walk(child, depth - 1)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key under which checkpoint-100 comes after checkpoint-20."""
    parts = re.split(r"(\d+)", text)
    return [
        (int(number), word) for word, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]

"""Names of models in a picture: short ones that tell the models apart."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

_CUT = "..."


def model_names(paths: Sequence[Path], longest: int = 60) -> list[str]:
    """Return a name for each model, of at most `longest` letters.

    Names of files, with the folders above them where these alone tell models apart
    (run-1/model.safetensors, run-2/model.safetensors). Of a long name what all of them begin
    or end with is left out, and letters in the middle of the rest.
    """
    deepest = max(len(path.parts) for path in paths)
    tails = ([path.parts[-depth:] for path in paths] for depth in range(1, deepest + 1))
    parts = next(
        (tail for tail in tails if len({*tail}) == len({*paths})), [p.parts for p in paths]
    )
    names = [os.path.join(*tail) for tail in parts]
    head = len(os.path.commonprefix(names))
    tail = len(os.path.commonprefix([name[::-1] for name in names]))
    return [_fitted(name, longest, head, max(head, len(name) - tail)) for name in names]


def _fitted(name: str, longest: int, start: int, end: int) -> str:
    """Return a name cut to a length around the letters from start to end, which it has alone."""
    if len(name) <= longest:
        return name
    room = longest - 2 * len(_CUT) - (end - start)
    if room < 0:
        half = (longest - len(_CUT)) // 2
        return name[start : start + half] + _CUT + name[end - half : end]
    first = max(0, start - room)
    last = end + room - (start - first)
    return _CUT * (first > 0) + name[first:last] + _CUT * (last < len(name))
